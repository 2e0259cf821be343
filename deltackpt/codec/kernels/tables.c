/* Frequency tables: from counts, to bytes and back, and into the forms that the inner loops look up. */
#include "rans.h"

/* A symbol that a sample has so often is as frequent as that; of others what neighbours have is a better guess. */
#define FEW 8
/* Their mean is counted in sixteenths. */
#define PARTS 16
/* Neighbours get a frequency where together they are worth an eighth of the least for each of them. An escape costs tens
 * of bits, a frequency that is never used one and a half in 2048. */
#define WORTH 8

/* Runs of symbols that a sample has seldom or not at all, up to FEW in all, become equally frequent. */
static void smooth(const uint32_t counts[DK_SYMBOLS], uint64_t total, uint32_t precision, uint64_t out[DK_SYMBOLS])
{
    int end = DK_ESCAPE;
    while (end > 0 && !counts[end - 1]) end--;
    for (int s = 0; s < DK_SYMBOLS; s++) out[s] = PARTS * (uint64_t)counts[s];
    for (int s = 0; s < end;) {
        uint64_t sum = 0;
        int last = s;
        while (last < end && counts[last] < FEW && sum < FEW) sum += counts[last++];
        if (last == s) {
            s++;
            continue;
        }
        const uint64_t width = (uint64_t)(last - s), mean = PARTS * sum / width;
        if ((WORTH * sum << precision) >= width * total)
            for (; s < last; s++) out[s] = mean ? mean : 1;
        s = last;
    }
}

/* Every symbol that occurs gets at least 1, the escape always does, and the sum is 1 << precision. */
void dk_normalize(const uint32_t counts[DK_SYMBOLS], int sampled, uint32_t precision, uint16_t frequencies[DK_SYMBOLS])
{
    const uint32_t whole = 1u << precision;
    uint64_t total = 0, escapes = counts[DK_ESCAPE];
    for (int s = 0; s < DK_ESCAPE; s++) {
        total += counts[s];
        /* As many symbols are still unseen, by Good and Turing, as were seen once. */
        escapes += sampled && counts[s] == 1;
    }
    memset(frequencies, 0, DK_SYMBOLS * sizeof frequencies[0]);
    if (total == 0) {
        /* Seldom or never met. No symbol may have all of the range: its frequency would not fit its field. */
        frequencies[0] = 1;
        frequencies[DK_ESCAPE] = (uint16_t)(whole - 1);
        return;
    }
    total += escapes;
    uint64_t known[DK_SYMBOLS];
    if (sampled) {
        smooth(counts, total, precision, known);
        known[DK_ESCAPE] = PARTS * escapes;
        total = 0;
        for (int s = 0; s < DK_SYMBOLS; s++) total += known[s];
    } else {
        for (int s = 0; s < DK_SYMBOLS; s++) known[s] = counts[s];
    }
    int32_t left = (int32_t)whole;
    for (int s = 0; s < DK_SYMBOLS; s++) {
        uint64_t n = known[s];
        if (n == 0 && s != DK_ESCAPE) continue;
        uint64_t f = (n * whole + total / 2) / total;
        frequencies[s] = (uint16_t)(f ? f : 1);
        left -= frequencies[s];
    }
    while (left) {
        int best = 0;
        for (int s = 1; s < DK_SYMBOLS; s++)
            if (frequencies[s] > frequencies[best]) best = s;
        int32_t most = frequencies[best] / 8 ? frequencies[best] / 8 : 1;
        int32_t step = left > most ? most : left < -most ? -most : left;
        frequencies[best] = (uint16_t)(frequencies[best] + step);
        left -= step;
    }
}

typedef struct {
    uint8_t *out;
    size_t length;
    uint32_t bits;
} bit_writer;

static void put_bit(bit_writer *w, uint32_t bit)
{
    if (w->bits == 0) w->out[w->length++] = 0;
    w->out[w->length - 1] |= (uint8_t)(bit << w->bits);
    w->bits = (w->bits + 1) & 7;
}

static void put_bits(bit_writer *w, uint32_t value, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) put_bit(w, value >> i & 1);
}

typedef struct {
    const uint8_t *in;
    size_t length, at;
    uint32_t bits;
    int failed;
} bit_reader;

static uint32_t get_bit(bit_reader *r)
{
    if (r->at >= r->length) {
        r->failed = 1;
        return 0;
    }
    uint32_t bit = r->in[r->at] >> r->bits & 1;
    r->bits = (r->bits + 1) & 7;
    r->at += r->bits == 0;
    return bit;
}

static uint32_t get_bits(bit_reader *r, uint32_t count)
{
    uint32_t value = 0;
    for (uint32_t i = 0; i < count; i++) value |= get_bit(r) << i;
    return value;
}

/* Rice codes whose parameter follows the mean of what was coded before, as in JPEG-LS. */
#define LONGEST_UNARY 16
#define PLAIN_BITS 14

typedef struct {
    uint32_t sum, count;
} rice;

static uint32_t rice_parameter(const rice *r)
{
    uint32_t k = 0;
    while (r->count << k < r->sum) k++;
    return k;
}

static void rice_update(rice *r, uint32_t value)
{
    r->sum += value;
    r->count++;
    if (r->count == 8) {
        r->sum >>= 1;
        r->count >>= 1;
    }
}

size_t dk_put_tables(dk_frequencies frequencies, const dk_plan *plan, uint8_t *out)
{
    bit_writer w = {out, 0, 0};
    for (uint32_t c = 0; c < plan->contexts; c++) {
        uint32_t used = 0;
        for (uint32_t s = 0; s < DK_ESCAPE; s++)
            if (frequencies[c][s]) used = s + 1;
        put_bits(&w, used, 8);
        rice r = {4, 1};
        int32_t before = 0;
        for (uint32_t s = 0; s < used; s++) {
            int32_t difference = (int32_t)frequencies[c][s] - before;
            before = frequencies[c][s];
            uint32_t value = difference < 0 ? (uint32_t)(-2 * difference - 1) : (uint32_t)(2 * difference);
            uint32_t k = rice_parameter(&r), quotient = value >> k;
            if (quotient < LONGEST_UNARY) {
                for (uint32_t i = 0; i < quotient; i++) put_bit(&w, 1);
                put_bit(&w, 0);
                put_bits(&w, value, k);
            } else {
                for (uint32_t i = 0; i < LONGEST_UNARY; i++) put_bit(&w, 1);
                put_bits(&w, value, PLAIN_BITS);
            }
            rice_update(&r, value);
        }
    }
    return w.length;
}

int dk_get_tables(const uint8_t *in, size_t length, const dk_plan *plan, dk_frequencies frequencies)
{
    const int32_t whole = (int32_t)(1u << plan->precision);
    bit_reader b = {in, length, 0, 0, 0};
    memset(frequencies, 0, sizeof(dk_frequencies));
    for (uint32_t c = 0; c < plan->contexts; c++) {
        uint32_t used = get_bits(&b, 8);
        rice r = {4, 1};
        int32_t before = 0, left = whole;
        for (uint32_t s = 0; s < used && !b.failed; s++) {
            uint32_t k = rice_parameter(&r), quotient = 0, value;
            while (quotient < LONGEST_UNARY && get_bit(&b)) quotient++;
            value = quotient < LONGEST_UNARY ? quotient << k | get_bits(&b, k) : get_bits(&b, PLAIN_BITS);
            rice_update(&r, value);
            before += value & 1 ? -(int32_t)((value + 1) / 2) : (int32_t)(value / 2);
            /* The escape takes what is left, at least 1. */
            if (before < 0 || before >= left) return DK_TABLE;
            left -= before;
            frequencies[c][s] = (uint16_t)before;
        }
        if (used == 0 || used > DK_ESCAPE || left == whole || !frequencies[c][used - 1]) return DK_TABLE;
        frequencies[c][DK_ESCAPE] = (uint16_t)left;
    }
    size_t at = b.at + (b.bits != 0);
    if (b.failed || at != length) return DK_TABLE;
    if (b.bits && b.in[b.at] >> b.bits) return DK_TABLE;
    return 0;
}

/* x / f as (x * reciprocal >> 32) >> shift, exact for x below 2^31; f = 1 takes the form that gives x - 1. */
void dk_fill_encode_table(dk_frequencies frequencies, const dk_plan *plan, dk_encode_table *table)
{
    const uint32_t whole = 1u << plan->precision;
    for (uint32_t c = 0; c < plan->contexts; c++) {
        uint32_t *reciprocal = table->reciprocal + c * DK_SYMBOLS, *info = table->info + c * DK_SYMBOLS;
        uint32_t start = 0;
        for (uint32_t s = 0; s < DK_SYMBOLS; s++) {
            uint32_t f = frequencies[c][s], shift = 0, bias = start;
            if (f == 0) continue;
            if (f == 1) {
                reciprocal[s] = 0xffffffffu;
                bias += whole - 1;
            } else {
                while (f > 1u << shift) shift++;
                reciprocal[s] = (uint32_t)((((uint64_t)1 << (shift + 31)) + f - 1) / f);
                shift--;
            }
            info[s] = f | bias << 12 | shift << 25 | (s == DK_ESCAPE ? 1u << 31 : 0);
            start += f;
        }
        for (uint32_t s = 0; s < DK_ESCAPE; s++) {
            if (frequencies[c][s]) continue;
            reciprocal[s] = reciprocal[DK_ESCAPE];
            info[s] = info[DK_ESCAPE];
        }
    }
}

/* Entries: symbol in bits 0-7, frequency 8-19, slot within the symbol 20-31. */
void dk_fill_decode_table(dk_frequencies frequencies, const dk_plan *plan, uint32_t *table)
{
    for (uint32_t c = 0; c < plan->contexts; c++) {
        uint32_t *entry = table + ((size_t)c << plan->precision);
        for (uint32_t s = 0; s < DK_SYMBOLS; s++) {
            uint32_t f = frequencies[c][s], base = s | f << 8;
            for (uint32_t slot = 0; slot < f; slot++) *entry++ = base | slot << 20;
        }
    }
}
