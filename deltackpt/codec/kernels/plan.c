/* The plan of a block: which keys get a context of their own, and how many bits below the symbol stay raw.
 *
 * Decided from a sample in whole numbers, so that every machine decides alike. Residuals are counted by length and
 * the two bits after the leading one; from these counts the cost of every shift follows, escapes included.
 */
#include "rans.h"

#include <stdlib.h>

#define BINS (4 * 32 + 1)
#define ONE 65536u
/* About what a symbol adds to the tables. */
#define SYMBOL_BITS 5
/* From so many elements on, 64 states of 4 bytes do not matter. */
#define MANY (1u << 13)

static uint32_t bit_length(uint32_t x)
{
#if defined(__GNUC__)
    return x ? 32 - (uint32_t)__builtin_clz(x) : 0;
#else
    uint32_t n = 0;
    if (x >> 16) n += 16, x >>= 16;
    if (x >> 8) n += 8, x >>= 8;
    if (x >> 4) n += 4, x >>= 4;
    if (x >> 2) n += 2, x >>= 2;
    return n + (x >> 1 ? 2 : x);
#endif
}

/* 65536 times log2 of x > 0, within 0.002 bits. */
static uint64_t log2_q16(uint32_t x)
{
    uint32_t k = bit_length(x) - 1;
    uint64_t f = (((uint64_t)x << 16) >> k) - ONE;
    uint64_t bend = f * (ONE - f) >> 16;
    return ((uint64_t)k << 16) + f + (bend * (28608u - (10093u * f >> 16)) >> 16);
}

static uint32_t bin_of(uint32_t z)
{
    uint32_t k = bit_length(z);
    if (k == 0) return 0;
    return 4 * (k - 1) + ((uint32_t)(((uint64_t)z << 2) >> (k - 1)) & 3) + 1;
}

/* The chosen shift's cost of what is counted in bins, in 1/65536 bits; symbols: how many the tables get. */
static uint64_t shift_cost(const uint32_t bins[BINS], uint32_t total, uint32_t shift, uint32_t bits, uint64_t *symbols)
{
    uint64_t cost = total * log2_q16(total) + (uint64_t)total * shift * ONE;
    uint32_t low = bins[0], high = 0, k = 1;
    for (; k <= shift; k++)
        for (uint32_t q = 0; q < 4; q++) low += bins[4 * k - 3 + q];
    if (low) cost -= low * log2_q16(low), *symbols += 1;
    for (; k <= bits && k <= shift + 8; k++) {
        const uint32_t *part = bins + 4 * k - 3;
        uint32_t above = k - shift;
        if (above == 1) {
            uint32_t n = part[0] + part[1] + part[2] + part[3];
            if (n) cost -= n * log2_q16(n), *symbols += 1;
        } else if (above == 2) {
            for (uint32_t q = 0; q < 4; q += 2) {
                uint32_t n = part[q] + part[q + 1];
                if (n) cost -= n * log2_q16(n), *symbols += 1;
            }
        } else {
            for (uint32_t q = 0; q < 4; q++) {
                uint32_t n = part[q], width = 1u << (above - 3);
                if (!n) continue;
                cost += (uint64_t)n * (above - 3) * ONE;
                cost -= n * log2_q16(n);
                *symbols += n < width ? n : width;
            }
        }
    }
    for (; k <= bits; k++)
        for (uint32_t q = 0; q < 4; q++) high += bins[4 * k - 3 + q];
    if (high) cost += (uint64_t)high * bits * ONE - high * log2_q16(high);
    return cost;
}

/* The same for a shift that leaves at most 8 bits: then tops counts the symbols themselves, or what they split into.
 * Bit patterns of floats, the residuals without a prediction, are told apart only here: they differ inside an octave. */
static uint64_t top_cost(const uint32_t tops[DK_SYMBOLS], uint32_t total, uint32_t shift, uint32_t bits, uint64_t *symbols)
{
    uint64_t cost = total * log2_q16(total) + (uint64_t)total * shift * ONE;
    uint32_t merged = 1u << (shift + 8 - bits);
    for (uint32_t s = 0; s < DK_SYMBOLS; s += merged) {
        uint32_t n = 0;
        for (uint32_t k = 0; k < merged; k++) n += tops[s + k];
        if (n) cost -= n * log2_q16(n), *symbols += 1;
    }
    return cost;
}

/* The window of keys that covers most of the sample; the lowest of equals. */
static void choose_window(const uint32_t keys[DK_KEYS], dk_plan *plan)
{
    uint32_t first = 0, last = DK_KEYS - 1;
    while (first < last && !keys[first]) first++;
    while (last > first && !keys[last]) last--;
    plan->low = first;
    plan->contexts = last - first + 1;
    if (plan->contexts <= DK_CONTEXTS) return;
    plan->contexts = DK_CONTEXTS;
    uint64_t inside = 0, best;
    for (uint32_t k = first; k < first + DK_CONTEXTS; k++) inside += keys[k];
    best = inside;
    for (uint32_t k = first + 1; k + DK_CONTEXTS <= last + 1; k++) {
        inside += keys[k + DK_CONTEXTS - 1];
        inside -= keys[k - 1];
        if (inside > best) best = inside, plan->low = k;
    }
}

typedef struct {
    uint32_t z[DK_PLAN_SAMPLES];
    uint16_t key[DK_PLAN_SAMPLES];
    uint32_t keys[DK_KEYS];
    uint32_t bins[DK_CONTEXTS][BINS];
    uint32_t tops[DK_CONTEXTS][DK_SYMBOLS];
    uint32_t totals[DK_CONTEXTS];
} scratch;

static uint32_t take_sample(const dk_block *block, uint32_t key_shift, scratch *s)
{
    uint32_t taken = 0;
    dk_runs runs = dk_sample_runs(block->count, DK_PLAN_SAMPLES);
    for (uint64_t run = 0; run < runs.runs; run++) {
        uint64_t start = dk_run_start(&runs, run);
        for (uint64_t i = start; i < start + runs.length; i++, taken++) {
            uint32_t p = dk_prediction(block, i);
            s->z[taken] = dk_residual(dk_load(block->values, i, block->word), p, block);
            s->key[taken] = (uint16_t)dk_key(block, i, p, key_shift);
        }
    }
    return taken;
}

/* Returns the estimated cost of the sample in 1/65536 bits, or UINT64_MAX without memory. */
uint64_t dk_make_plan(const dk_block *block, dk_plan *plan)
{
    const uint32_t bits = 8 * block->word;
    scratch *s = malloc(sizeof *s);
    if (!s) return UINT64_MAX;
    memset(s->keys, 0, sizeof s->keys);
    memset(s->bins, 0, sizeof s->bins);
    memset(s->tops, 0, sizeof s->tops);
    memset(s->totals, 0, sizeof s->totals);
    memset(plan, 0, sizeof *plan);
    plan->key_shift = block->context ? DK_CONTEXT_ARRAY : block->key_shift;
    plan->precision = 11;
    plan->lanes_log2 = block->count >= MANY ? 6 : 4;

    uint32_t taken = take_sample(block, plan->key_shift, s);
    for (uint32_t i = 0; i < taken; i++) s->keys[s->key[i]]++;
    choose_window(s->keys, plan);
    for (uint32_t i = 0; i < taken; i++) {
        uint32_t c = dk_clamp(s->key[i], plan->low, plan->contexts);
        s->bins[c][bin_of(s->z[i])]++;
        s->tops[c][s->z[i] >> (bits - 8)]++;
        s->totals[c]++;
    }

    uint64_t best = UINT64_MAX;
    for (uint32_t shift = 0; shift < bits; shift += 4) {
        uint64_t sum = 0;
        uint32_t extra = 0;
        for (uint32_t c = plan->contexts; c-- > 0;) {
            uint64_t cost[2] = {UINT64_MAX, UINT64_MAX};
            if (!s->totals[c]) {
                /* Not in the sample: as the next larger predictions. */
                extra |= (extra >> 1) & 1u << c;
                continue;
            }
            for (uint32_t more = 0; more < 2 && shift + 8 * more < bits; more++) {
                uint64_t symbols = 0;
                uint32_t t = shift + 8 * more;
                uint64_t plain = t + 8 >= bits ? top_cost(s->tops[c], s->totals[c], t, bits, &symbols)
                                               : shift_cost(s->bins[c], s->totals[c], t, bits, &symbols);
                cost[more] = plain + symbols * SYMBOL_BITS * ONE * taken / block->count;
            }
            if (cost[1] < cost[0]) extra |= 1u << c;
            sum += cost[1] < cost[0] ? cost[1] : cost[0];
        }
        if (sum < best) best = sum, plan->shift = shift, plan->extra = extra;
    }
    free(s);
    return best;
}
