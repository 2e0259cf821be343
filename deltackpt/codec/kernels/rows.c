/* Rows of a block whose residuals are larger or smaller than the context tells: how much they differ, and which are which.
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

/* The mean size of the first 64 elements of each whole row of 2^row_log2 >= 64 elements, less what their contexts have on
 * average; sums of 64, in sixteenths of a quarter of an octave. scratch is as for encoding. */
DK_PUBLIC void dk_row_sizes(const dk_block *block, const dk_survey *survey, uint32_t row_log2, int32_t *out,
                            dk_scratch *scratch)
{
    const uint64_t rows = block->count >> row_log2;
    const dk_plan *plan = &survey->plan;
    uint64_t sums[DK_CONTEXTS] = {0};
    uint32_t counts[DK_CONTEXTS] = {0}, means[DK_CONTEXTS];
    uint8_t *contexts = scratch->side_streams, *sizes = contexts + rows * RUN;
    for (uint64_t r = 0; r < rows; r++) {
        for (uint64_t k = 0; k < RUN; k++) {
            const uint64_t i = (r << row_log2) + k;
            uint32_t p = dk_prediction(block, i), z = dk_residual(dk_load(block->values, i, block->word), p, block);
            uint32_t c = dk_clamp(dk_key(block, i, p, plan->key_shift), plan->low, plan->contexts);
            uint16_t size = (uint16_t)dk_size(z, dk_bin_of(z), plan, 8 * block->word);
            sums[c] += size;
            counts[c]++;
            contexts[r * RUN + k] = (uint8_t)c;
            memcpy(sizes + 2 * (r * RUN + k), &size, 2);
        }
    }
    for (uint32_t c = 0; c < DK_CONTEXTS; c++) means[c] = dk_mean_size(sums[c], counts[c]);
    for (uint64_t r = 0; r < rows; r++) {
        int32_t sum = 0;
        for (uint64_t k = r * RUN; k < (r + 1) * RUN; k++) {
            uint16_t size;
            memcpy(&size, sizes + 2 * k, 2);
            sum += 16 * (int32_t)size - (int32_t)means[contexts[k]];
        }
        out[r] = sum;
    }
}
