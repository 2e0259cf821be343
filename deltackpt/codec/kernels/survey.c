/* The survey of a block: which keys get a context of their own, how many bits below the symbol stay raw, what that costs
 * and what byte planes would.
 *
 * Decided from a sample in whole numbers, so that every machine decides alike. Residuals are counted by length and
 * the two bits after the leading one; from these counts the cost of every shift follows, escapes included.
 */
#include "rans.h"

#define ONE 65536u
/* About what a symbol adds to the tables. */
#define SYMBOL_BITS 5
/* Below so many bytes of payload, the compact form: beyond, it would save less than 0.3% and the time of its tables. */
#define COMPACT_BELOW (1u << 18)
/* Below so many bytes, 16 states instead of 64; and 4 or 1, which fill no vector, so not in blocks of many elements. */
#define FEW_BELOW (1u << 16)
#define FOUR_BELOW (1u << 12)
#define ONE_BELOW (1u << 10)
#define MOST_WITH_FOUR (1u << 17)

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
    /* Without a branch, which small residuals would take by chance. */
    uint32_t k = bit_length(z | 1);
    return 4 * (k - 1) + ((uint32_t)(((uint64_t)z << 2) >> (k - 1)) & 3) + (z != 0);
}

static uint64_t weight(uint32_t n) { return n ? n * log2_q16(n) : 0; }

/* The chosen shift's cost of what is counted in bins, in 1/65536 bits; symbols: how many the tables get. */
static uint64_t shift_cost(const uint32_t bins[DK_BINS], uint32_t total, uint32_t shift, uint32_t bits, uint64_t *symbols)
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

/* Residuals and keys of at most 64 elements that lie one after another. */
static inline void take_run(const dk_block *block, uint64_t start, uint64_t length, uint32_t key_shift, uint32_t *z,
                            uint16_t *key)
{
    for (uint64_t i = 0; i < length; i++) {
        uint32_t p = dk_prediction(block, start + i);
        z[i] = dk_residual(dk_load(block->values, start + i, block->word), p, block);
        key[i] = (uint16_t)dk_key(block, start + i, p, key_shift);
    }
}

/* How many runs ahead memory is asked for. */
#define RUNS_AHEAD 4

/* Residuals and keys of the sample. */
static uint32_t take_sample(const dk_block *block, uint32_t key_shift, dk_survey_scratch *s)
{
    uint32_t taken = 0;
    dk_runs runs = dk_sample_runs(block->count, dk_share(block, DK_PLAN_SAMPLES, DK_LEAST_PLAN_SAMPLES));
    dk_block own = *block;
    for (uint64_t run = 0; run < runs.runs; run++) {
        uint64_t i = dk_run_start(&runs, run), end = i + runs.length;
        if (run + RUNS_AHEAD < runs.runs) dk_prefetch(&own, dk_at(&own, dk_run_start(&runs, run + RUNS_AHEAD)));
        while (i < end) {
            const uint64_t length = end - i < DK_LANES ? end - i : DK_LANES, start = dk_at(&own, i);
            /* The two calls differ in nothing but a constant that a compiler can use. */
            if (own.word == 2) {
                own.word = 2;
                take_run(&own, start, length, key_shift, s->z + taken, s->key + taken);
            } else {
                own.word = 4;
                take_run(&own, start, length, key_shift, s->z + taken, s->key + taken);
            }
            taken += (uint32_t)length;
            i += length;
        }
    }
    return taken;
}

/* What every number of raw bits costs in a context. */
static void context_costs(const dk_survey_scratch *s, uint32_t c, uint32_t bits, uint32_t taken, uint64_t count,
                          uint64_t costs[8])
{
    for (uint32_t t = 0; t < bits; t += 4) {
        uint64_t symbols = 0;
        uint64_t plain = t + 8 >= bits ? top_cost(s->tops[c], s->totals[c], t, bits, &symbols)
                                       : shift_cost(s->bins[c], s->totals[c], t, bits, &symbols);
        costs[t / 4] = plain + symbols * SYMBOL_BITS * ONE * taken / count;
    }
}

static uint64_t choose_shift(const dk_survey_scratch *s, uint32_t bits, uint32_t taken, uint64_t count, dk_plan *plan)
{
    uint64_t sums[8] = {0}, best = UINT64_MAX;
    uint32_t extra[8] = {0};
    for (uint32_t c = plan->contexts; c-- > 0;) {
        uint64_t costs[8];
        if (s->totals[c]) context_costs(s, c, bits, taken, count, costs);
        for (uint32_t k = 0; k < bits / 4; k++) {
            if (!s->totals[c]) {
                /* Not in the sample: as the next larger predictions. */
                extra[k] |= (extra[k] >> 1) & 1u << c;
                continue;
            }
            int more = k + 2 < bits / 4 && costs[k + 2] < costs[k];
            extra[k] |= (uint32_t)more << c;
            sums[k] += costs[more ? k + 2 : k];
        }
    }
    for (uint32_t k = 0; k < bits / 4; k++)
        if (sums[k] < best) best = sums[k], plan->shift = 4 * k, plan->extra = extra[k];
    return best;
}

/* By order 0, with Miller and Madow's term for what a sample misses; no plane takes more than its bytes. */
static uint64_t plane_cost(const uint32_t counts[DK_SYMBOLS], uint32_t total)
{
    const uint64_t most = (uint64_t)total * 8 * ONE;
    uint64_t cost = weight(total);
    uint32_t present = 0;
    for (uint32_t s = 0; s < DK_SYMBOLS; s++) cost -= weight(counts[s]), present += counts[s] != 0;
    if (present == 1) return 0;
    cost += (uint64_t)(present - 1) * 47274; /* 65536 / (2 ln 2) */
    return cost < most ? cost : most;
}

static uint64_t planes_cost(dk_survey_scratch *s, uint32_t planes, uint32_t taken)
{
    uint64_t cost = 0;
    for (uint32_t i = 0; i < taken; i++)
        for (uint32_t k = 0; k < planes; k++) s->bytes[k][s->z[i] >> 8 * k & 255]++;
    for (uint32_t k = 0; k < planes; k++) cost += plane_cost(s->bytes[k], taken);
    return cost;
}

/* Of consecutive residuals in the middle of the block, how many windows of 8 bytes occurred before among them. */
static uint32_t count_repeats(dk_survey_scratch *s, const dk_block *block)
{
    const uint64_t length = block->count < DK_WINDOWS ? block->count : DK_WINDOWS, start = (block->count - length) / 2;
    const uint32_t full = 8 / block->word, bits = 8 * block->word;
    uint64_t window = 0;
    uint32_t repeats = 0;
    for (uint64_t i = 0; i < length; i++) {
        uint64_t at = dk_at(block, start + i);
        uint64_t z = dk_residual(dk_load(block->values, at, block->word), dk_prediction(block, at), block);
        window = window << bits | z;
        if (i + 1 < full) continue;
        uint32_t slot = (uint32_t)((window * 0x9E3779B97F4A7C15u) >> 52);
        while (s->used[slot] && s->slots[slot] != window) slot = (slot + 1) & (DK_WINDOW_SLOTS - 1);
        repeats += s->used[slot];
        s->used[slot] = 1;
        s->slots[slot] = window;
    }
    return repeats;
}

/* How much the head, tables and states of a payload of about so many bytes may take. States cost 3 bytes each. */
static void choose_form(uint64_t bytes, uint64_t count, dk_plan *plan)
{
    plan->method = bytes < COMPACT_BELOW ? DK_COMPACT : DK_CODED;
    plan->lanes_log2 = bytes < FEW_BELOW ? 4 : 6;
    if (bytes < FOUR_BELOW && count <= MOST_WITH_FOUR) plan->lanes_log2 = bytes < ONE_BELOW ? 0 : 2;
}

/* How the block is best coded, and what that costs. */
void dk_take_survey(const dk_block *block, dk_survey *survey, dk_survey_scratch *s)
{
    const uint32_t bits = 8 * block->word;
    dk_plan *plan = &survey->plan;
    memset(s->keys, 0, sizeof s->keys);
    memset(s->bins, 0, sizeof s->bins);
    memset(s->tops, 0, sizeof s->tops);
    memset(s->sizes, 0, sizeof s->sizes);
    memset(survey, 0, sizeof *survey);
    plan->key_shift = block->context ? DK_CONTEXT_ARRAY : block->key_shift;
    plan->precision = 11;

    uint32_t taken = take_sample(block, plan->key_shift, s);
    for (uint32_t i = 0; i < taken; i++) s->keys[s->key[i]]++;
    choose_window(s->keys, plan);
    const int alone = dk_is_alone(plan);
    for (uint32_t i = 0; i < taken; i++) {
        uint32_t c = dk_clamp(s->key[i], plan->low, plan->contexts), bin = bin_of(s->z[i]);
        uint32_t size = dk_size(s->z[i], alone, bits);
        s->bins[c][bin]++;
        s->tops[c][s->z[i] >> (bits - 8)]++;
        s->sizes[c] += size;
        s->key[i] = (uint16_t)c;
        s->z[i] = size;
    }
    for (uint32_t c = 0; c < plan->contexts; c++) {
        s->totals[c] = 0;
        for (uint32_t symbol = 0; symbol < DK_SYMBOLS; symbol++) s->totals[c] += s->tops[c][symbol];
        survey->sizes[c] = dk_mean_size(s->sizes[c], s->totals[c]);
    }
    survey->taken = taken;
    survey->spread = dk_spread_of(s->z, s->key, taken, survey->sizes);
    survey->cost = choose_shift(s, bits, taken, block->count, plan);
    choose_form(survey->cost / taken * block->count >> 19, block->count, plan);
}

/* What byte planes may gain from. */
void dk_take_structure(const dk_block *block, dk_structure *structure, dk_survey_scratch *s)
{
    memset(s->bytes, 0, sizeof s->bytes);
    memset(s->used, 0, sizeof s->used);
    structure->taken = take_sample(block, block->key_shift, s);
    structure->planes = planes_cost(s, block->word, structure->taken);
    structure->repeats = count_repeats(s, block);
}
