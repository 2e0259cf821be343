/* Rows of a block whose residuals are larger or smaller than the context tells: how much they differ, and in which class
 * each is.
 *
 * In whole numbers, so that every machine decides alike.
 */
#include "rans.h"

#define RUN 64
#define MOST_SPREAD 0xffffffu

/* 1024 times the variance of runs of 64 elements over that of elements within them, less what chance alone makes of it
 * (one-way analysis of variance). */
uint32_t dk_spread_of(const uint32_t *sizes, const uint16_t *contexts, uint32_t taken, const uint32_t means[DK_CONTEXTS])
{
    const uint64_t runs = taken / RUN;
    uint64_t squares = 0, between = 0;
    for (uint64_t r = 0; r < runs; r++) {
        int64_t sum = 0;
        for (uint64_t i = r * RUN; i < (r + 1) * RUN; i++) {
            int64_t x = 16 * (int64_t)sizes[i] - (int64_t)means[contexts[i]];
            sum += x;
            squares += (uint64_t)(x * x);
        }
        between += (uint64_t)(sum * sum);
    }
    /* Both are RUN times what they are called. */
    const uint64_t within = RUN * squares - between;
    if (between == 0) return 0;
    if (within == 0) return MOST_SPREAD;
    uint64_t ratio = between * (RUN - 1) / (within / 1024 + 1);
    uint64_t spread = ratio > 1024 ? (ratio - 1024) / RUN : 0;
    return spread < MOST_SPREAD ? (uint32_t)spread : MOST_SPREAD;
}

#define MOST_CLASSES 4
#define LIMIT_ROWS 1024 /* from so many rows come the limits between classes */
#define ROUNDS 12       /* of moving them */

static int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b != 0 && (a < 0) != (b < 0)); }

/* The class is the number of limits that a size is not below. */
static uint32_t class_of(int32_t size, const int64_t limits[MOST_CLASSES], uint32_t most)
{
    uint32_t found = 0;
    for (uint32_t k = 0; k < most; k++) found += size >= limits[k];
    return found;
}

/* Mean sizes of classes; of those without a row, a limit. */
static void means_of(const int32_t *sizes, uint64_t rows, uint32_t classes, const int64_t limits[MOST_CLASSES],
                     int64_t means[MOST_CLASSES])
{
    int64_t sums[MOST_CLASSES] = {0}, counts[MOST_CLASSES] = {0};
    const uint64_t taken = rows < LIMIT_ROWS ? rows : LIMIT_ROWS;
    for (uint64_t k = 0; k < taken; k++) {
        const int32_t size = sizes[k * rows / taken];
        const uint32_t c = class_of(size, limits, classes - 1);
        sums[c] += size;
        counts[c]++;
    }
    for (uint32_t c = 0; c < classes; c++)
        means[c] = counts[c] ? floor_div(sums[c], counts[c]) : limits[c ? c - 1 : 0];
}

/* Rows by size, in groups around their means (Lloyd's algorithm). The first limits are the mean, and the means of both
 * sides. */
void dk_classes_of(const int32_t *sizes, uint64_t rows, uint32_t class_bits, uint8_t *classes)
{
    const uint32_t number = 1u << class_bits;
    int64_t limits[MOST_CLASSES] = {0}, means[MOST_CLASSES];
    if (rows == 0) return;
    means_of(sizes, rows, 1, limits, means);
    limits[0] = means[0];
    if (number == 4) {
        means_of(sizes, rows, 2, limits, means);
        limits[1] = limits[0];
        limits[0] = means[0];
        limits[2] = means[1];
    }
    for (int round = 0; round < ROUNDS; round++) {
        int moved = 0;
        means_of(sizes, rows, number, limits, means);
        for (uint32_t k = 0; k + 1 < number; k++) {
            const int64_t limit = floor_div(means[k] + means[k + 1], 2);
            moved |= limit != limits[k];
            limits[k] = limit;
        }
        if (!moved) break;
    }
    for (uint64_t r = 0; r < rows; r++) classes[r] = (uint8_t)class_of(sizes[r], limits, number - 1);
}
