/* What the Python side calls: a block to a payload and back. */
#include "rans.h"

#if DK_X86
#include <cpuid.h>
#endif

/* Bytes that the caller's buffer has beyond the block's: header, tables and full vectors past the end of a stream. */
#define SLACK 32768
#define VECTOR 128

/* Samples for the tables: 2^16 of 32-bit words, whose symbols are a small part of them, 2^17 of 16-bit ones. */
#define SAMPLES(word) ((word) == 4 ? (uint64_t)1 << 16 : (uint64_t)1 << 17)

/* Of some rows their share of so many times these, and no fewer than the least: as many tables as there are classes have to
 * be known as well as those of a block. For 16-bit words twice as many again make 0.3% of such a block. */
#define ROW_SAMPLES(word) ((word) == 4 ? 2 : 4)
#define LEAST_SAMPLES ((uint64_t)1 << 13)

/* Below so many 1/65536 bits an element, the tables come from half of the block: 2% smaller than from 2^17 of 2^20
 * elements at 0.2 bits an element; from all of it 0.5% smaller still, but encoding takes 1.3 times as long. */
#define SPARSE_Q16 32768

typedef struct {
    dk_index_runs index;
    dk_size_rows sizes;
    dk_encode_rows encode;
    dk_decode_rows decode;
} variant_functions;

static variant_functions functions_of(int variant)
{
    variant_functions f = {dk_index_runs_scalar, dk_size_rows_scalar, dk_encode_rows_scalar, dk_decode_rows_scalar};
#if DK_X86
    if (variant == DK_AVX512) {
        variant_functions g = {dk_index_runs_avx512, dk_size_rows_avx512, dk_encode_rows_avx512,
                               dk_decode_rows_avx512};
        return g;
    }
    if (variant == DK_AVX2) {
        variant_functions g = {dk_index_runs_avx2, dk_size_rows_avx2, dk_encode_rows_avx2, dk_decode_rows_avx2};
        return g;
    }
#endif
    (void)variant;
    return f;
}

#if DK_X86
/* Asked of the processor itself: __builtin_cpu_supports needs a runtime library that not every toolchain can link. */
static uint32_t saved_registers(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

static int has(uint32_t value, uint32_t bits) { return (value & bits) == bits; }

static int best_x86(void)
{
    const uint32_t popcnt = 1u << 23, osxsave = 1u << 27, avx = 1u << 28;
    const uint32_t bmi1 = 1u << 3, avx2 = 1u << 5, bmi2 = 1u << 8;
    const uint32_t f = 1u << 16, dq = 1u << 17, bw = 1u << 30, vl = 1u << 31;
    uint32_t a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !has(c, popcnt | osxsave | avx)) return DK_SCALAR;
    uint32_t saved = saved_registers();
    if (!has(saved, 0x06) || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return DK_SCALAR;
    if (!has(b, bmi1 | avx2 | bmi2)) return DK_SCALAR;
    return has(saved, 0xe6) && has(b, f | dq | bw | vl) ? DK_AVX512 : DK_AVX2;
}
#endif

/* The fastest variant that this processor and its system run. */
DK_PUBLIC int dk_best_variant(void)
{
#if DK_X86
    return best_x86();
#else
    return DK_SCALAR;
#endif
}

DK_PUBLIC uint64_t dk_bound(uint64_t count, uint32_t word) { return count * word + SLACK; }

static void put16(uint8_t *at, uint32_t value)
{
    at[0] = (uint8_t)value;
    at[1] = (uint8_t)(value >> 8);
}

static void put32(uint8_t *at, uint32_t value)
{
    put16(at, value);
    put16(at + 2, value >> 16);
}

static uint32_t get16(const uint8_t *at) { return at[0] | (uint32_t)at[1] << 8; }

static uint32_t get32(const uint8_t *at) { return get16(at) | get16(at + 2) << 16; }

static uint32_t residual_at(const dk_block *block, uint64_t i)
{
    return dk_residual(dk_load(block->values, i, block->word), dk_prediction(block, i), block);
}

static int is_constant(const dk_block *block, uint32_t first)
{
    uint64_t i = 0;
    for (; i + DK_LANES <= block->count; i += DK_LANES) {
        uint32_t other = 0;
        const uint64_t start = dk_at(block, i);
        for (uint64_t k = start; k < start + DK_LANES; k++) other |= residual_at(block, k) ^ first;
        if (other) return 0;
    }
    for (; i < block->count; i++)
        if (residual_at(block, dk_at(block, i)) != first) return 0;
    return 1;
}

static void put_header(uint8_t *out, const dk_plan *plan)
{
    out[0] = DK_CODED;
    out[1] = (uint8_t)plan->shift;
    out[2] = (uint8_t)plan->precision;
    out[3] = (uint8_t)plan->lanes_log2;
    out[4] = (uint8_t)plan->key_shift;
    out[5] = (uint8_t)plan->contexts;
    put16(out + 6, plan->low);
    put16(out + 8, plan->extra);
    put32(out + 10, plan->table_bytes);
    put32(out + 14, plan->words);
    put32(out + 18, plan->extras);
    put32(out + 22, plan->escapes);
}

static uint64_t put_head(uint8_t *out, const dk_plan *plan)
{
    if (plan->method == DK_COMPACT) return dk_put_compact_head(out, plan);
    put_header(out, plan);
    return DK_HEADER;
}

/* The bytes of the tables, and the frequencies that they say; 0 where they are too long. */
static uint32_t put_tables(const uint32_t *counts, int sampled, const dk_plan *plan, uint8_t *out,
                           dk_frequencies frequencies)
{
    if (plan->method == DK_COMPACT) return (uint32_t)dk_put_compact_tables(counts, sampled, plan, out, frequencies);
    for (uint32_t c = 0; c < plan->contexts; c++)
        dk_normalize(counts + c * DK_SYMBOLS, sampled, plan->precision, frequencies[c]);
    return (uint32_t)dk_put_tables(frequencies, plan, out);
}

/* Four states and fewer do not fill a vector. */
static dk_encode_rows rows_encoder(const variant_functions *f, const dk_plan *plan)
{
    return plan->lanes_log2 < 4 ? dk_encode_rows_scalar : f->encode;
}

static dk_decode_rows rows_decoder(const variant_functions *f, const dk_plan *plan)
{
    return plan->lanes_log2 < 4 ? dk_decode_rows_scalar : f->decode;
}

static int encode_streams(const variant_functions *f, const dk_block *block, const dk_plan *plan,
                          const dk_encode_table *table, dk_encoder *e)
{
    const uint64_t n = block->count, rows = n / DK_LANES;
    int failed = rows_encoder(f, plan)(block, plan, table, e, 0, rows);
    return failed ? failed : dk_encode_some(block, plan, table, e, rows * DK_LANES, n - rows * DK_LANES);
}

static int64_t encode_coded(const variant_functions *f, const dk_block *block, const dk_survey *survey, uint8_t *out,
                            dk_scratch *scratch)
{
    const uint64_t n = block->count, raw = n * block->word;
    uint64_t samples = SAMPLES(block->word);
    if (block->rows) samples = dk_share(block, ROW_SAMPLES(block->word) * samples, LEAST_SAMPLES);
    uint32_t *counts = scratch->u.encode.counts;
    dk_plan plan = survey->plan;
    dk_encoder e;
    /* Where few symbols occur, the rare ones are what costs. */
    if (survey->cost / survey->taken < SPARSE_Q16 && samples < n / 2) samples = n / 2;
    dk_count(block, &plan, f->index, samples, scratch->u.encode.turns, counts);
    /* A compact payload is moved up when its lengths are known, and so that of its head. */
    uint8_t *body = out + (plan.method == DK_COMPACT ? DK_COMPACT_HEAD : DK_HEADER);
    plan.table_bytes = put_tables(counts, n > samples, &plan, body, scratch->frequencies);
    if (!plan.table_bytes) return DK_TOO_LARGE;
    dk_fill_encode_table(scratch->frequencies, &plan, &scratch->u.encode.table);

    uint8_t *at = body + plan.table_bytes;
    e.wide = at;
    at += plan.shift & 16 ? 2 * n : 0;
    e.byte = at;
    at += plan.shift & 8 ? n : 0;
    e.nibble = at;
    at += plan.shift & 4 ? (n + 1) / 2 : 0;
    uint8_t *words = at, *extras = scratch->side_streams, *escapes = extras + n + VECTOR;
    e.words = at;
    e.words_end = out + raw + SLACK - VECTOR;
    if (at > e.words_end) return DK_TOO_LARGE;
    e.extras = extras;
    e.escapes = escapes;
    for (uint32_t lane = 0; lane < DK_LANES; lane++) e.state[lane] = DK_STATE_LOW;

    int failed = encode_streams(f, block, &plan, &scratch->u.encode.table, &e);
    if (failed) return failed;

    plan.words = (uint32_t)((e.words - words) / 2);
    plan.extras = (uint32_t)(e.extras - extras);
    plan.escapes = (uint32_t)((uint64_t)(e.escapes - escapes) / block->word);
    uint64_t lanes = (uint64_t)1 << plan.lanes_log2, escape_bytes = (uint64_t)plan.escapes * block->word;
    uint8_t head[DK_COMPACT_HEAD];
    uint64_t start = put_head(head, &plan), first = (uint64_t)(e.words - body);
    uint64_t total = start + first + plan.extras + escape_bytes + 4 * lanes;
    if (total >= raw) return DK_TOO_LARGE;
    memcpy(out, head, start);
    if (out + start != body) memmove(out + start, body, first);
    at = out + start + first;
    memcpy(at, extras, plan.extras);
    at += plan.extras;
    memcpy(at, escapes, escape_bytes);
    at += escape_bytes;
    memcpy(at, e.state, 4 * lanes);
    return (int64_t)total;
}

/* Bytes of scratch for any of the functions below. */
DK_PUBLIC uint64_t dk_scratch_bytes(uint64_t count, uint32_t word)
{
    return sizeof(dk_scratch) + count * (1 + word) + 2 * VECTOR;
}

/* What a sample of the block tells. */
DK_PUBLIC void dk_survey_block(const dk_block *block, dk_survey *survey, dk_scratch *scratch)
{
    dk_take_survey(block, survey, &scratch->u.survey);
}

DK_PUBLIC void dk_structure_of(const dk_block *block, dk_structure *structure, dk_scratch *scratch)
{
    dk_take_structure(block, structure, &scratch->u.survey);
}

/* Which of 1 << class_bits classes each whole row of 2^row_log2 >= 64 elements is in, by the mean size of the residuals of
 * its first 64 elements, less what their contexts have on average in the survey. scratch is as for encoding. */
DK_PUBLIC void dk_sort_rows(int variant, const dk_block *block, const dk_survey *survey, uint32_t row_log2,
                            uint32_t class_bits, uint8_t *classes, dk_scratch *scratch)
{
    const uint64_t rows = block->count >> row_log2;
    /* A row has more bytes of side streams than a size. */
    int32_t *sizes = (int32_t *)(void *)scratch->side_streams;
    functions_of(variant).sizes(block, survey, row_log2, sizes);
    dk_classes_of(sizes, rows, class_bits, classes);
}

/* The payload's length, or a negative result. survey is of this block; out holds dk_bound bytes; count is at least 1
 * and below 2^31. */
DK_PUBLIC int64_t dk_encode(int variant, const dk_block *block, const dk_survey *survey, uint8_t *out, dk_scratch *scratch)
{
    variant_functions f = functions_of(variant);
    uint32_t first = residual_at(block, dk_at(block, 0));
    if (is_constant(block, first)) {
        if (block->count < 3) return DK_TOO_LARGE;
        out[0] = DK_CONSTANT;
        memcpy(out + 1, &first, block->word);
        return 1 + (int64_t)block->word;
    }
    return encode_coded(&f, block, survey, out, scratch);
}

static int get_coded_head(const uint8_t *in, uint64_t length, dk_plan *plan, uint64_t *head)
{
    if (length < DK_HEADER) return DK_TRUNCATED;
    plan->shift = in[1];
    plan->precision = in[2];
    plan->lanes_log2 = in[3];
    plan->key_shift = in[4];
    plan->contexts = in[5];
    plan->low = get16(in + 6);
    plan->extra = get16(in + 8);
    plan->table_bytes = get32(in + 10);
    plan->words = get32(in + 14);
    plan->extras = get32(in + 18);
    plan->escapes = get32(in + 22);
    *head = DK_HEADER;
    return 0;
}

static int get_header(const uint8_t *in, uint64_t length, const dk_block *block, dk_plan *plan, uint64_t *head)
{
    const uint32_t bits = 8 * block->word;
    const int compact = in[0] == DK_COMPACT;
    int failed = compact ? dk_get_compact_head(in, length, plan, head) : get_coded_head(in, length, plan, head);
    if (failed) return failed;
    plan->method = in[0];
    if (plan->shift % 4 || plan->shift >= bits) return DK_HEADER_FIELD;
    if (plan->precision < DK_MIN_PRECISION || plan->precision > DK_MAX_PRECISION) return DK_HEADER_FIELD;
    if (plan->lanes_log2 != 4 && plan->lanes_log2 != 6 && !(compact && plan->lanes_log2 <= 2)) return DK_HEADER_FIELD;
    if (plan->contexts < 1 || plan->contexts > DK_CONTEXTS || plan->low >= DK_KEYS) return DK_HEADER_FIELD;
    if (plan->extra >> plan->contexts || (plan->extra && plan->shift + 8 >= bits)) return DK_HEADER_FIELD;
    if (plan->key_shift == DK_CONTEXT_ARRAY) return block->context ? 0 : DK_HEADER_FIELD;
    if (plan->key_shift < 1 || plan->key_shift >= bits || plan->key_shift + 11 < bits) return DK_HEADER_FIELD;
    return 0;
}

static int fill_constant(const dk_block *block, const uint8_t *payload, uint64_t length, uint8_t *out)
{
    if (length < 1 + block->word) return DK_TRUNCATED;
    if (length > 1 + block->word) return DK_TRAILING;
    uint32_t z = 0;
    memcpy(&z, payload + 1, block->word);
    for (uint64_t number = 0; number < block->count; number++) {
        const uint64_t i = dk_at(block, number);
        uint32_t p = dk_prediction(block, i);
        uint32_t r = z >> 1 ^ ((uint32_t)0 - (z & 1)), image = dk_image(p, block->is_float);
        image += block->word == 2 ? r << 16 : r;
        uint32_t value = block->is_float ? image ^ (dk_sign(~image) | 0x80000000u) : image;
        if (block->word == 2) {
            uint16_t half = (uint16_t)(value >> 16);
            memcpy(out + 2 * i, &half, 2);
        } else {
            memcpy(out + 4 * i, &value, 4);
        }
    }
    return 0;
}

static int decode_coded(const variant_functions *f, const dk_block *block, const uint8_t *payload, uint64_t length,
                        dk_scratch *scratch, uint8_t *out)
{
    uint32_t *table = scratch->u.decode_table;
    const uint64_t n = block->count;
    dk_plan plan;
    dk_decoder d;
    uint64_t head;
    int failed = get_header(payload, length, block, &plan, &head);
    if (failed) return failed;

    const uint64_t lanes = (uint64_t)1 << plan.lanes_log2, shift = plan.shift;
    uint64_t wide = shift & 16 ? 2 * n : 0, byte = shift & 8 ? n : 0, nibble = shift & 4 ? (n + 1) / 2 : 0;
    uint64_t words = 2 * (uint64_t)plan.words, escapes = (uint64_t)plan.escapes * block->word;
    if (plan.method == DK_COMPACT) {
        /* The words are what the head's numbers leave. */
        uint64_t others = head + plan.table_bytes + wide + byte + nibble + plan.extras + escapes + 4 * lanes;
        if (length < others) return DK_TRUNCATED;
        if ((length - others) % 2 || (length - others) / 2 > UINT32_MAX) return DK_TRAILING;
        words = length - others;
    }
    uint64_t total = head + plan.table_bytes + wide + byte + nibble + words + plan.extras + escapes + 4 * lanes;
    if (length < total) return DK_TRUNCATED;
    if (length > total) return DK_TRAILING;

    const uint8_t *at = payload + head;
    failed = plan.method == DK_COMPACT ? dk_get_compact_tables(at, plan.table_bytes, &plan, scratch->frequencies)
                                       : dk_get_tables(at, plan.table_bytes, &plan, scratch->frequencies);
    if (failed) return failed;
    dk_fill_decode_table(scratch->frequencies, &plan, table);
    at += plan.table_bytes;
    d.wide = at;
    d.byte = d.wide + wide;
    d.nibble = d.byte + byte;
    if (nibble && n % 2 && d.nibble[nibble - 1] >> 4) return DK_STREAM;
    d.words_start = d.nibble + nibble;
    d.words = d.extras_start = d.words_start + words;
    d.extras = d.escapes_start = d.extras_start + plan.extras;
    d.escapes = d.escapes_start + escapes;
    memset(d.state, 0, sizeof d.state);
    memcpy(d.state, d.escapes, 4 * lanes);
    for (uint64_t lane = 0; lane < lanes; lane++)
        if (d.state[lane] < DK_STATE_LOW || d.state[lane] >> 31) return DK_STATE;

    uint64_t rows = n / DK_LANES;
    failed = dk_decode_some(block, &plan, table, &d, out, rows * DK_LANES, n - rows * DK_LANES);
    if (!failed) failed = rows_decoder(f, &plan)(block, &plan, table, &d, out, 0, rows);
    if (failed) return failed;
    if (d.words != d.words_start || d.extras != d.extras_start || d.escapes != d.escapes_start) return DK_TRAILING;
    for (uint64_t lane = 0; lane < lanes; lane++)
        if (d.state[lane] != DK_STATE_LOW) return DK_STATE;
    return 0;
}

/* 0 or a negative result. Reads no byte outside payload and the block's arrays, writes count words to out, which may be
 * the prediction itself. */
DK_PUBLIC int dk_decode(int variant, const dk_block *block, const uint8_t *payload, uint64_t length, uint8_t *out,
                        dk_scratch *scratch)
{
    variant_functions f = functions_of(variant);
    if (length < 1) return DK_TRUNCATED;
    if (payload[0] == DK_CONSTANT) return fill_constant(block, payload, length, out);
    if (payload[0] > DK_COMPACT) return DK_HEADER_FIELD;
    return decode_coded(&f, block, payload, length, scratch, out);
}
