/* What the kernels make of some hundred blocks, as a line of hashes each: equal on every machine and in every variant.
 *
 * `vectors` prints those of the fastest variant, `vectors 0` those of the portable one. `make aarch64` compares a run
 * here with one on another processor.
 */
#include "rans.h"

#include <stdio.h>
#include <stdlib.h>

int dk_best_variant(void);
uint64_t dk_bound(uint64_t count, uint32_t word);
uint64_t dk_scratch_bytes(uint64_t count, uint32_t word);
void dk_survey_block(const dk_block *block, dk_survey *survey, dk_scratch *scratch);
void dk_structure_of(const dk_block *block, dk_structure *structure, dk_scratch *scratch);
void dk_sort_rows(int variant, const dk_block *block, const dk_survey *survey, uint32_t row_log2, uint32_t class_bits,
                  uint8_t *classes, dk_scratch *scratch);
int64_t dk_encode(int variant, const dk_block *block, const dk_survey *survey, uint8_t *out, dk_scratch *scratch);
int dk_decode(int variant, const dk_block *block, const uint8_t *payload, uint64_t length, uint8_t *out,
              dk_scratch *scratch);
void dk_adam_weight(int variant, const uint8_t *base, const uint8_t *first, const uint8_t *second, uint8_t *out,
                    uint64_t count, double rate, double epsilon, double decay);
void dk_adam_second(int variant, const uint8_t *base, const uint8_t *first, const uint8_t *second, uint8_t *out,
                    uint64_t count, double beta1, double beta2);
void dk_products_of(int variant, const double *columns, uint32_t count, uint64_t length, double *sums);
void dk_cast(int variant, const uint8_t *words, uint8_t *out, uint64_t count, int is_bfloat16);

static const uint32_t COUNTS[] = {1, 3, 63, 64, 65, 1000, 8191, 8192, 9001, 70000, 140001};

static uint64_t seed;

/* SplitMix64: one number a call, so that results do not depend on the order in which a compiler evaluates arguments. */
static uint32_t draw(void)
{
    uint64_t z = seed += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return (uint32_t)(z >> 32);
}

/* FNV-1a */
static uint64_t hash(const void *data, size_t length)
{
    uint64_t h = 0xCBF29CE484222325u;
    for (size_t i = 0; i < length; i++) h = (h ^ ((const uint8_t *)data)[i]) * 0x100000001B3u;
    return h;
}

static void *buffer(size_t size)
{
    void *found = calloc(size ? size : 1, 1);
    if (!found) abort();
    return found;
}

/* Float words of some range of exponents, without infinities. */
static void fill_floats(uint8_t *out, uint32_t count, uint32_t lowest, uint32_t signs)
{
    for (uint32_t i = 0; i < count; i++) {
        uint32_t x = draw();
        x = (x & 0x807fffffu & ~(signs ? 0 : 0x80000000u)) | (lowest + (x >> 23 & 15)) << 23;
        memcpy(out + 4 * i, &x, 4);
    }
}

/* Words near those of a base: how near, how often and with how many outliers depends on the number of the case. */
static void fill(uint32_t number, uint8_t *values, uint8_t *base, uint8_t *context, uint32_t count, uint32_t word)
{
    const uint32_t bits = 1 + number * 7 % (8 * word), often = 1 + number % 5 * 20, outliers = 10 + number % 3 * 300;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t p = draw() & 0xbfffffffu, r = draw(), step = draw() >> (32 - bits) >> (r >> 29);
        if (word == 2) p >>= 16;
        uint32_t v = r % often ? p : r & 1u << 16 ? p + step : p - step;
        if (r % outliers == 7) v = draw();
        memcpy(base + word * i, &p, word);
        memcpy(values + word * i, &v, word);
        context[i] = (uint8_t)(p % (1 + number % 20));
    }
}

static void one_block(int variant, uint32_t number)
{
    const uint32_t word = number & 1 ? 2 : 4, count = COUNTS[number % (sizeof COUNTS / sizeof *COUNTS)];
    uint8_t *values = buffer(word * count), *base = buffer(word * count), *context = buffer(count);
    uint8_t *payload = buffer(dk_bound(count, word)), *out = buffer(word * count);
    dk_scratch *scratch = buffer(dk_scratch_bytes(count, word));
    dk_survey survey;
    dk_structure structure;
    seed = number;
    fill(number, values, base, context, count, word);
    dk_block block = {.values = values,
                      .prediction = number % 7 ? base : NULL,
                      .context = number % 3 ? NULL : context,
                      .count = count,
                      .word = word,
                      .is_float = number % 4 > 0,
                      .key_shift = 8 * word - 8,
                      .whole = count};
    dk_structure_of(&block, &structure, scratch);
    dk_survey_block(&block, &survey, scratch);
    int64_t length = dk_encode(variant, &block, &survey, payload, scratch);
    printf("block %u: survey %016llx, structure %llu %u, %lld bytes", number,
           (unsigned long long)hash(&survey, sizeof survey), (unsigned long long)structure.planes, structure.repeats,
           (long long)length);
    if (length > 0) {
        block.values = NULL;
        int result = dk_decode(variant, &block, payload, (uint64_t)length, out, scratch);
        if (result || memcmp(out, values, word * count)) printf(" THAT DO NOT COME BACK");
        printf(" %016llx", (unsigned long long)hash(payload, (size_t)length));
    }
    block.values = values;
    const uint32_t rows = count >> 6;
    uint8_t *classes = buffer(rows);
    uint32_t *members = buffer((rows + 1) * sizeof *members), taken = 0;
    dk_sort_rows(variant, &block, &survey, 6, 2, classes, scratch);
    for (uint32_t r = 0; r < rows; r++)
        if (classes[r] == 3) members[taken++] = r;
    block.count = 64 * (uint64_t)taken;
    if (count % 64) members[taken++] = rows, block.count += count % 64;
    block.rows = members;
    block.row_log2 = 6;
    printf(", classes %016llx", (unsigned long long)hash(classes, rows));
    if (block.count) {
        dk_survey_block(&block, &survey, scratch);
        length = dk_encode(variant, &block, &survey, payload, scratch);
        printf(" %lld bytes", (long long)length);
        if (length > 0) {
            memset(out, 0, word * count);
            block.values = NULL;
            int result = dk_decode(variant, &block, payload, (uint64_t)length, out, scratch);
            printf(" %d %016llx %016llx", result, (unsigned long long)hash(payload, (size_t)length),
                   (unsigned long long)hash(out, word * count));
        }
    }
    printf("\n");
    free(members), free(classes), free(scratch), free(out), free(payload), free(context), free(base), free(values);
}

static void one_prediction(int variant, uint32_t number)
{
    const uint32_t count = COUNTS[number % 9], columns = 1 + number % 8;
    uint8_t *in[3], *out = buffer(4 * count);
    for (uint32_t k = 0; k < 3; k++) in[k] = buffer(4 * count);
    seed = number;
    /* Around denormals too, and in every eighth case words of all kinds. */
    fill_floats(in[0], count, number % 5 ? 110 : 0, 1);
    fill_floats(in[1], count, number % 3 ? 95 : 0, 1);
    fill_floats(in[2], count, number % 2 ? 80 : 0, number % 2);
    for (uint32_t i = 0; number % 8 == 0 && i < 4 * count; i++) in[i % 3][i] = (uint8_t)draw();
    printf("prediction %u:", number);
    dk_adam_weight(variant, in[0], in[1], in[2], out, count, -6e-4, number % 2 ? 1e-8 : 0.0, 0.9990000128746033);
    printf(" %016llx", (unsigned long long)hash(out, 4 * count));
    dk_adam_second(variant, in[0], in[1], in[2], out, count, 0.9, 0.95);
    printf(" %016llx", (unsigned long long)hash(out, 4 * count));
    for (int k = 0; k < 2; k++) {
        dk_cast(variant, in[0], out, count, k);
        printf(" %016llx", (unsigned long long)hash(out, 2 * count));
    }
    uint32_t length = count / columns / 2;
    double *table = buffer(columns * length * sizeof *table), *sums = buffer(columns * columns * sizeof *sums);
    for (uint32_t i = 0; i < columns * length; i++) table[i] = (double)(int32_t)draw() / (1 + (draw() & 0xffff));
    dk_products_of(variant, table, columns, length, sums);
    printf(" %016llx\n", (unsigned long long)hash(sums, columns * columns * sizeof *sums));
    free(sums), free(table), free(out);
    for (int k = 0; k < 3; k++) free(in[k]);
}

/* As torch.set_flush_denormal(True) does: kernels must not mind. */
static void flush_denormals(void)
{
#if defined(__x86_64__)
    uint32_t flags = 0x1f80u | 0x8040u;
    __asm__ volatile("ldmxcsr %0" : : "m"(flags));
#elif defined(__aarch64__)
    uint64_t flags = (uint64_t)1 << 24;
    __asm__ volatile("msr fpcr, %0" : : "r"(flags));
#endif
}

int main(int argc, char **argv)
{
    int variant = argc > 1 ? atoi(argv[1]) : dk_best_variant();
    flush_denormals();
    for (uint32_t number = 0; number < 110; number++) one_block(variant, number);
    for (uint32_t number = 0; number < 72; number++) one_prediction(variant, number);
    return 0;
}
