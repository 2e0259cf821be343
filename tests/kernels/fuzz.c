/* `make sanitize`: the kernels under address and undefined-behaviour sanitizers. Every variant must give the bits of the
 * scalar one, and survive damaged payloads; all buffers have exactly the size that they may be used in. */
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

static uint64_t seed = 0x9E3779B97F4A7C15u;

static uint32_t draw(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (uint32_t)(seed >> 24);
}

static uint32_t below(uint32_t n) { return draw() % n; }

static void *buffer(size_t size)
{
    void *found = malloc(size ? size : 1);
    if (!found) abort();
    return found;
}

static void fail(const char *what)
{
    fprintf(stderr, "failed: %s\n", what);
    exit(1);
}

static uint64_t draw_count(void)
{
    static const uint32_t around[] = {1, 16, 64, 128, 200, 1000, 8192, 8256, 20000, 70000, 140000};
    uint32_t n = around[below(below(8) ? 9 : 11)];
    return n < 3 ? n + below(3) : n - 2 + below(5);
}

/* Words near those of a base: by a few places, by many, hardly ever, with outliers. */
static void fill(uint8_t *values, uint8_t *base, uint8_t *context, uint64_t count, uint32_t word)
{
    uint32_t magnitude = below(8 * word), changed = 1 + below(200), outliers = 1 + below(300), contexts = 1 + below(40);
    for (uint64_t i = 0; i < count; i++) {
        uint32_t p = draw() & (below(2) ? 0x3fffffffu : 0xffffffffu);
        uint32_t step = below(changed) < 2 ? draw() >> (31 - magnitude) >> below(3) : 0;
        uint32_t v = below(outliers) ? p + (below(2) ? step : 0 - step) : draw();
        if (word == 2) {
            p >>= 16;
            v = (below(outliers) ? p + (step & 0xff) : draw());
        }
        memcpy(base + word * i, &p, word);
        memcpy(values + word * i, &v, word);
        context[i] = (uint8_t)below(contexts);
    }
}

static void damage(uint8_t *payload, uint64_t length)
{
    for (uint32_t k = 1 + below(4); k--;) {
        uint64_t at = below(3) == 0 ? below((uint32_t)length) : below(2) ? below(length < 60 ? (uint32_t)length : 60)
                                                                        : length - 1 - below(length < 300 ? (uint32_t)length : 300);
        payload[at] = below(2) ? (uint8_t)draw() : (uint8_t)(payload[at] ^ (1u << below(8)));
    }
}

/* Whether the elements that a block means are the same in two arrays, and the others are as they were. */
static int same(const dk_block *block, const uint8_t *found, const uint8_t *expected, const uint8_t *before)
{
    uint8_t *want = buffer(block->whole * block->word);
    memcpy(want, before, block->whole * block->word);
    for (uint64_t i = 0; i < block->count; i++)
        memcpy(want + dk_at(block, i) * block->word, expected + dk_at(block, i) * block->word, block->word);
    int equal = memcmp(found, want, block->whole * block->word) == 0;
    free(want);
    return equal;
}

static void decode_all(const dk_block *block, const uint8_t *payload, uint64_t length, const uint8_t *expected)
{
    uint64_t raw = block->whole * block->word;
    uint8_t *first = buffer(raw);
    dk_scratch *scratch = buffer(dk_scratch_bytes(0, 0));
    int result = 0;
    for (int variant = 0; variant <= dk_best_variant(); variant++) {
        uint8_t *copy = buffer(length), *out = buffer(raw), *before = buffer(raw);
        memcpy(copy, payload, length);
        memset(before, 0x5a, raw);
        memset(out, 0x5a, raw);
        int found;
        if (block->prediction && below(2)) {
            dk_block own = *block;
            memcpy(out, block->prediction, raw);
            memcpy(before, block->prediction, raw);
            own.prediction = out;
            found = dk_decode(variant, &own, copy, length, out, scratch);
        } else {
            found = dk_decode(variant, block, copy, length, out, scratch);
        }
        if (expected && (found || !same(block, out, expected, before))) fail("round trip");
        if (variant == 0) {
            result = found;
            memcpy(first, out, result ? 0 : raw);
        } else if ((found == 0) != (result == 0) || (!found && !same(block, out, first, before))) {
            fail("variants disagree on a damaged payload");
        }
        free(before);
        free(out);
        free(copy);
    }
    free(scratch);
    free(first);
}

static void code(dk_block block, uint32_t damages)
{
    uint64_t raw = block.count * block.word;
    int64_t length = 0;
    const uint8_t *values = block.values;
    uint8_t *payload = NULL;
    dk_scratch *scratch = buffer(dk_scratch_bytes(block.count, block.word));
    dk_survey survey;
    dk_survey_block(&block, &survey, scratch);
    if (below(2)) {
        survey.plan.method = DK_CODED + below(2);
        survey.plan.lanes_log2 = survey.plan.method == DK_COMPACT ? 2 * below(4) : 4 + 2 * below(2);
    }
    for (int variant = 0; variant <= dk_best_variant(); variant++) {
        uint8_t *out = buffer(dk_bound(block.count, block.word));
        int64_t found = dk_encode(variant, &block, &survey, out, scratch);
        if (variant == 0) {
            length = found;
            payload = buffer(found > 0 ? (size_t)found : 1);
            memcpy(payload, out, found > 0 ? (size_t)found : 0);
        } else if (found != length || (found > 0 && memcmp(out, payload, (size_t)found))) {
            fail("variants encode differently");
        }
        free(out);
    }
    block.values = NULL;
    if (length > 0) {
        if ((uint64_t)length >= raw) fail("a payload as large as the block");
        decode_all(&block, payload, (uint64_t)length, values);
        uint8_t *bad = buffer((size_t)length);
        for (uint32_t k = 0; k < damages; k++) {
            memcpy(bad, payload, (size_t)length);
            damage(bad, (uint64_t)length);
            decode_all(&block, bad, below(4) ? (uint64_t)length : below((uint32_t)length), NULL);
        }
        free(bad);
    }
    free(scratch);
    free(payload);
}

/* One class of the rows of a block, and the words after the last whole row with the last class. */
static void one_part(dk_block block, const dk_survey *survey, dk_scratch *scratch, uint32_t damages)
{
    const uint32_t row_log2 = 6 + below(3), class_bits = 1 + below(2), most = (1u << class_bits) - 1;
    const uint64_t rows = block.count >> row_log2, rest = block.count - (rows << row_log2);
    uint8_t *classes = buffer(rows), *other = buffer(rows);
    for (int variant = 0; variant <= dk_best_variant(); variant++) {
        dk_sort_rows(variant, &block, survey, row_log2, class_bits, variant ? other : classes, scratch);
        if (variant && memcmp(classes, other, rows)) fail("variants sort rows differently");
    }
    uint32_t *numbers = buffer((rows + 1) * sizeof *numbers), taken = 0, class = below(most + 1);
    for (uint64_t r = 0; r < rows; r++) {
        if (classes[r] > most) fail("a class that is none");
        if (classes[r] == class) numbers[taken++] = (uint32_t)r;
    }
    block.count = (uint64_t)taken << row_log2;
    if (class == most && rest) {
        numbers[taken++] = (uint32_t)rows;
        block.count += rest;
    }
    block.rows = buffer(taken * sizeof *numbers);
    block.row_log2 = row_log2;
    memcpy((void *)block.rows, numbers, taken * sizeof *numbers);
    if (block.count) code(block, damages);
    free((void *)block.rows);
    free(numbers);
    free(other);
    free(classes);
}

static void one_block(uint32_t damages)
{
    uint32_t word = below(2) ? 4 : 2;
    uint64_t count = draw_count(), raw = count * word;
    uint8_t *values = buffer(raw), *base = buffer(raw), *context = buffer(count);
    fill(values, base, context, count, word);
    dk_block block = {.values = values,
                      .prediction = below(4) ? base : NULL,
                      .context = below(3) ? NULL : context,
                      .count = count,
                      .word = word,
                      .is_float = below(3) > 0,
                      .key_shift = 8 * word - 8,
                      .whole = count};
    dk_scratch *scratch = buffer(dk_scratch_bytes(count, word));
    dk_survey survey;
    dk_structure structure;
    dk_structure_of(&block, &structure, scratch);
    dk_survey_block(&block, &survey, scratch);
    code(block, damages);
    one_part(block, &survey, scratch, damages / 2);
    free(scratch);
    free(context);
    free(base);
    free(values);
}

/* Any words, at addresses of any alignment. */
static void one_prediction(void)
{
    uint32_t count = below(300), shift = below(4), columns = 1 + below(8), length = below(100);
    size_t size = 4 * (size_t)count;
    double a = 1.0 / (1 + below(1000)), b = below(2) ? 1e-8 : 0, c = 0.9990000128746033;
    uint8_t *in[3], *first[4] = {0}, *out[4];
    for (int k = 0; k < 3; k++) {
        in[k] = buffer(size + shift);
        for (size_t i = 0; i < size + shift; i++) in[k][i] = (uint8_t)draw();
    }
    double *table = buffer(columns * length * sizeof(double)), *sums = buffer(columns * columns * sizeof(double));
    double *expected = buffer(columns * columns * sizeof(double));
    for (uint32_t i = 0; i < columns * length; i++) table[i] = (double)(int32_t)draw() / (1 + below(1u << 20));
    for (int variant = 0; variant <= dk_best_variant(); variant++) {
        for (int k = 0; k < 4; k++) out[k] = buffer(size + shift);
        dk_adam_weight(variant, in[0] + shift, in[1] + shift, in[2] + shift, out[0] + shift, count, a, b, c);
        dk_adam_second(variant, in[0] + shift, in[1] + shift, in[2] + shift, out[1] + shift, count, a, c);
        dk_cast(variant, in[0] + shift, out[2] + shift, count, 1);
        dk_cast(variant, in[1] + shift, out[3] + shift, count, 0);
        dk_products_of(variant, table, columns, length, variant ? sums : expected);
        if (variant && memcmp(sums, expected, columns * columns * sizeof(double))) fail("variants sum differently");
        for (int k = 0; k < 4; k++) {
            size_t made = k < 2 ? size : size / 2;
            if (variant && memcmp(first[k] + shift, out[k] + shift, made)) fail("variants predict differently");
            if (variant)
                free(out[k]);
            else
                first[k] = out[k];
        }
    }
    for (int k = 0; k < 4; k++) free(first[k]);
    for (int k = 0; k < 3; k++) free(in[k]);
    free(table);
    free(sums);
    free(expected);
}

int main(int argc, char **argv)
{
    long blocks = argc > 1 ? atol(argv[1]) : 300;
    for (long k = 0; k < blocks; k++) one_block(20), one_prediction();
    printf("%ld blocks and predictions, variants 0 to %d\n", blocks, dk_best_variant());
    return 0;
}
