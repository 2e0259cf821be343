/* The compact form of a payload's head and tables, for payloads of which they are more than a trifle.
 *
 * A table is levels, square roots of counts: these are all known equally well, to about half, however large the count
 * is (the variance-stabilising transform of Poisson counts), so no bits go to what chance decides. A level is predicted
 * by those before it, and what it differs by is coded bit by bit, each with its own adaptive probability, by an
 * arithmetic coder without carries (as in Mahoney's lpaq). Section 5 of docs/format.md.
 */
#include "rans.h"

#define LONGEST 15         /* bits of a number after its leading one */
#define LARGEST 16383      /* level */
#define LONGEST_LEVEL 14   /* bits of the largest level */
#define MOST_TOTAL (1u << 26)
#define HALF 32768u
#define CLOSEST 1024u /* probabilities keep so far from 0 and 65536 */
#define SETTLED 25

typedef struct {
    uint32_t one; /* probability, of 65536 */
    uint32_t seen;
} bit_model;

typedef struct {
    bit_model unary[LONGEST], next[LONGEST + 1];
} number_models;

typedef struct {
    bit_model zero, negative;
    number_models size;
} signed_models;

/* One for both directions: the encoder is told the bits, the decoder finds them. */
typedef struct {
    uint32_t low, high, value;
    uint8_t *out;      /* encoding; else NULL */
    const uint8_t *in; /* decoding */
    size_t at, length;
    signed_models used, first, second, near[4];
    number_models escape, none;
} coder;

static uint32_t next_byte(const coder *k, size_t at) { return at < k->length ? k->in[at] : 0; }

static void start(coder *k, uint8_t *out, const uint8_t *in, size_t length)
{
    bit_model *first = &k->used.zero, *end = (bit_model *)(k + 1);
    memset(k, 0, sizeof *k);
    for (bit_model *m = first; m < end; m++) m->one = HALF;
    k->high = 0xffffffffu;
    k->out = out;
    k->in = in;
    k->length = length;
    if (!out)
        for (size_t i = 0; i < 4; i++) k->value = k->value << 8 | next_byte(k, i);
}

static uint32_t code_at(coder *k, uint32_t one, uint32_t bit)
{
    uint32_t middle = k->low + (uint32_t)((uint64_t)(k->high - k->low) * one >> 16);
    if (!k->out) bit = k->value <= middle;
    if (bit)
        k->high = middle;
    else
        k->low = middle + 1;
    while (!((k->low ^ k->high) >> 24)) {
        if (!k->out)
            k->value = k->value << 8 | next_byte(k, k->at + 4);
        else if (k->at < k->length)
            k->out[k->at] = (uint8_t)(k->high >> 24);
        k->at++;
        k->low <<= 8;
        k->high = k->high << 8 | 255;
    }
    return bit;
}

static uint32_t code_bit(coder *k, bit_model *m, uint32_t bit)
{
    bit = code_at(k, m->one, bit);
    m->seen += m->seen < SETTLED;
    uint32_t rate = 131072u / (2 * m->seen + 3);
    m->one = bit ? m->one + ((65536u - m->one) * rate >> 16) : m->one - (m->one * rate >> 16);
    if (m->one < CLOSEST) m->one = CLOSEST;
    if (m->one > 65536u - CLOSEST) m->one = 65536u - CLOSEST;
    return bit;
}

/* Elias's gamma code of value + 1. */
static uint32_t code_number(coder *k, number_models *m, uint32_t value)
{
    uint32_t wanted = 0, length = 0, found = 1;
    while ((value + 1) >> wanted > 1) wanted++;
    while (length < LONGEST && code_bit(k, &m->unary[length], length < wanted)) length++;
    for (uint32_t i = length; i-- > 0;) {
        uint32_t bit = (value + 1) >> i & 1;
        found = found << 1 | (i == length - 1 ? code_bit(k, &m->next[length], bit) : code_at(k, HALF, bit));
    }
    return found - 1;
}

static int32_t code_signed(coder *k, signed_models *m, int32_t value)
{
    if (code_bit(k, &m->zero, value == 0)) return 0;
    uint32_t negative = code_bit(k, &m->negative, value < 0);
    int32_t size = 1 + (int32_t)code_number(k, &m->size, value ? (uint32_t)(value < 0 ? -value : value) - 1 : 0);
    return negative ? -size : size;
}

static uint32_t length_of(uint32_t x)
{
    uint32_t length = 0;
    while (length < 32 && x >> length) length++;
    return length;
}

/* The square root to the nearest. */
static uint32_t root_of(uint32_t x)
{
    uint32_t root = 0;
    if (x < 2) return x; /* as most are */
    for (uint32_t bit = 1u << length_of(x) / 2; bit; bit >>= 1)
        if ((uint64_t)(root | bit) * (root | bit) <= x) root |= bit;
    return root + (x - root * root > root);
}

/* Of a symbol that has nearly all of a context, how often it occurs matters less, the rarer all others are: bits of its
 * level that go below the length of theirs together. */
static uint32_t length_of_others(const uint16_t level[DK_SYMBOLS])
{
    uint64_t sum = 0;
    for (uint32_t s = 1; s < DK_SYMBOLS; s++) sum += (uint64_t)level[s] * level[s];
    return length_of(root_of(sum < 0xffffffffu ? (uint32_t)sum : 0xffffffffu));
}

static uint32_t dropped_bits(uint32_t length, uint32_t others)
{
    uint32_t dropped = length > others ? length - others : 0;
    return dropped < length ? dropped : length ? length - 1 : 0;
}

/* What levels before it say of symbol s, in quarters. Where signs are symbols' lowest bits, every other one is near. */
static uint32_t expected(const uint16_t *level, uint32_t s, int alternating)
{
    if (s == 2) return 4u * level[1];
    return alternating ? 3u * level[s - 2] + level[s - 1] : 2u * level[s - 2] + 2u * level[s - 1];
}

/* A level by its length in bits, as it differs from that in the context before, and its bits below the leading one. */
static int code_long(coder *k, signed_models *m, int32_t *length, uint32_t others, uint16_t *level)
{
    int32_t found = *length + code_signed(k, m, (int32_t)length_of(*level) - *length);
    if (found < 0 || found > LONGEST_LEVEL) return DK_TABLE;
    *length = found;
    uint32_t left = found ? (uint32_t)found - 1 : 0, dropped = dropped_bits((uint32_t)found, others), bits = found > 0;
    while (left > dropped) {
        left--;
        bits = bits << 1 | code_at(k, HALF, (uint32_t)*level >> left & 1);
    }
    *level = (uint16_t)(bits << left);
    return 0;
}

static int code_context(coder *k, uint16_t level[DK_SYMBOLS], uint32_t used, int alternating, int32_t lengths[2])
{
    int failed = used > 1 ? code_long(k, &k->second, &lengths[1], LONGEST_LEVEL, &level[1]) : 0;
    if (failed) return failed;
    for (uint32_t s = 2; s < used; s++) {
        uint32_t quarters = expected(level, s, alternating), whole = (quarters + 2) / 4;
        signed_models *near = &k->near[(quarters >= 6) + (quarters >= 16) + (quarters >= 48)];
        int32_t found = whole ? (int32_t)whole + code_signed(k, near, (int32_t)level[s] - (int32_t)whole)
                              : (int32_t)code_number(k, &k->none, level[s]);
        if (found < 0 || found > LARGEST) return DK_TABLE;
        level[s] = (uint16_t)found;
    }
    failed = code_long(k, &k->first, &lengths[0], length_of_others(level), &level[0]);
    if (failed) return failed;
    return level[used - 1] ? 0 : DK_TABLE;
}

static int code_levels(coder *k, const dk_plan *plan, dk_frequencies levels)
{
    int32_t before = 0, lengths[2] = {0, 0};
    for (uint32_t c = 0; c < plan->contexts; c++) {
        int32_t used = 0;
        for (uint32_t s = 0; s < DK_ESCAPE; s++)
            if (levels[c][s]) used = (int32_t)s + 1;
        used = before + code_signed(k, &k->used, used - before);
        if (used < 0 || used > DK_ESCAPE) return DK_TABLE;
        before = used;
        uint32_t escape = code_number(k, &k->escape, levels[c][DK_ESCAPE]);
        if (escape > LARGEST) return DK_TABLE;
        levels[c][DK_ESCAPE] = (uint16_t)escape;
        int alternating = plan->shift == 0 && !(plan->extra >> c & 1);
        int failed = used ? code_context(k, levels[c], (uint32_t)used, alternating, lengths) : 0;
        if (failed) return failed;
    }
    return 0;
}

/* The fewest bytes that, with zeros after them, say where the coder is. */
static size_t tail_of(const coder *k, uint8_t tail[4])
{
    for (uint32_t bytes = 0;; bytes++) {
        uint64_t below = bytes < 4 ? 0xffffffffu >> 8 * bytes : 0, at = ((uint64_t)k->low + below) & ~below;
        if (at > k->high) continue;
        for (uint32_t i = 0; i < bytes; i++) tail[i] = (uint8_t)(at >> (24 - 8 * i));
        return bytes;
    }
}

static void levels_to_frequencies(const dk_plan *plan, dk_frequencies levels, dk_frequencies frequencies)
{
    for (uint32_t c = 0; c < plan->contexts; c++) {
        uint32_t squares[DK_SYMBOLS];
        for (uint32_t s = 0; s < DK_SYMBOLS; s++) squares[s] = (uint32_t)levels[c][s] * levels[c][s];
        dk_normalize(squares, 0, plan->precision, frequencies[c]);
    }
}

static void counts_to_levels(const uint32_t counts[DK_SYMBOLS], int sampled, uint16_t level[DK_SYMBOLS])
{
    uint64_t total = 0, escapes = counts[DK_ESCAPE];
    for (uint32_t s = 0; s < DK_ESCAPE; s++) {
        total += counts[s];
        escapes += sampled && counts[s] == 1; /* as dk_normalize counts them */
    }
    uint32_t down = 0;
    while ((total + escapes) >> down > MOST_TOTAL) down++;
    for (uint32_t s = 0; s < DK_SYMBOLS; s++) {
        uint64_t n = s == DK_ESCAPE ? escapes : counts[s];
        uint32_t root = root_of((uint32_t)(n >> down));
        level[s] = (uint16_t)(root ? root : n > 0);
    }
    uint32_t dropped = dropped_bits(length_of(level[0]), length_of_others(level));
    if (dropped) level[0] = (uint16_t)(((uint32_t)level[0] + (1u << (dropped - 1))) >> dropped << dropped);
}

size_t dk_put_compact_tables(const uint32_t *counts, int sampled, const dk_plan *plan, uint8_t *out,
                             dk_frequencies frequencies)
{
    dk_frequencies levels;
    uint8_t tail[4];
    coder k;
    for (uint32_t c = 0; c < plan->contexts; c++) counts_to_levels(counts + c * DK_SYMBOLS, sampled, levels[c]);
    levels_to_frequencies(plan, levels, frequencies);
    start(&k, out, NULL, DK_COMPACT_TABLES);
    code_levels(&k, plan, levels);
    size_t bytes = tail_of(&k, tail);
    if (k.at + bytes > DK_COMPACT_TABLES) return 0;
    memcpy(out + k.at, tail, bytes);
    return k.at + bytes;
}

int dk_get_compact_tables(const uint8_t *in, size_t length, const dk_plan *plan, dk_frequencies frequencies)
{
    dk_frequencies levels;
    uint8_t tail[4];
    coder k;
    memset(levels, 0, sizeof levels);
    start(&k, NULL, in, length);
    int failed = code_levels(&k, plan, levels);
    if (failed) return failed;
    size_t bytes = tail_of(&k, tail);
    if (length != k.at + bytes || memcmp(in + k.at, tail, bytes)) return DK_TABLE;
    levels_to_frequencies(plan, levels, frequencies);
    return 0;
}

static uint8_t *put_varint(uint8_t *at, uint32_t value)
{
    for (; value >> 7; value >>= 7) *at++ = (uint8_t)(value | 128);
    *at++ = (uint8_t)value;
    return at;
}

size_t dk_put_compact_head(uint8_t *out, const dk_plan *plan)
{
    uint8_t *at = out;
    *at++ = DK_COMPACT;
    *at++ = (uint8_t)(plan->shift / 4 | (plan->precision - DK_MIN_PRECISION) << 3 | plan->lanes_log2 / 2 << 5);
    *at++ = (uint8_t)plan->key_shift;
    *at++ = (uint8_t)plan->contexts;
    at = put_varint(at, plan->low);
    at = put_varint(at, plan->extra);
    at = put_varint(at, plan->table_bytes);
    at = put_varint(at, plan->escapes);
    if (plan->extra) at = put_varint(at, plan->extras);
    return (size_t)(at - out);
}

int dk_get_compact_head(const uint8_t *in, uint64_t length, dk_plan *plan, uint64_t *head)
{
    uint32_t *numbers[] = {&plan->low, &plan->extra, &plan->table_bytes, &plan->escapes, &plan->extras};
    uint64_t at = 4;
    plan->words = plan->extra = 0;
    if (length < at) return DK_TRUNCATED;
    if (in[1] >> 7) return DK_HEADER_FIELD;
    plan->shift = 4 * (in[1] & 7u);
    plan->precision = DK_MIN_PRECISION + (in[1] >> 3 & 3);
    plan->lanes_log2 = 2 * (in[1] >> 5 & 3u);
    plan->key_shift = in[2];
    plan->contexts = in[3];
    plan->extras = 0;
    for (uint32_t i = 0; i < 4 + (plan->extra != 0); i++) {
        uint64_t value = 0;
        uint32_t shift = 0;
        for (;; shift += 7) {
            if (at >= length) return DK_TRUNCATED;
            value |= (uint64_t)(in[at] & 127) << shift;
            if (!(in[at++] >> 7)) break;
            if (shift == 28) return DK_HEADER_FIELD;
        }
        if (value >> 32 || (shift && !in[at - 1])) return DK_HEADER_FIELD;
        *numbers[i] = (uint32_t)value;
    }
    *head = at;
    return 0;
}
