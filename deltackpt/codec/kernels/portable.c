/* The variant in plain C, for every processor: rows of 64 elements, in steps that a compiler makes vectors of and one
 * that it cannot, the table look-ups and states. Branches that depend on data are taken seldom.
 */
#include "rans.h"

#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline))
#else
#define INLINE static inline
#endif

/* Of frequencies, in all that this package writes: as a constant it saves a shift by a variable, which costs. */
#define PRECISION 11

typedef struct {
    uint32_t image_and, image_or; /* of dk_image, without its branch */
    int32_t low, last_context;
    uint32_t key_shift;
    uint8_t more[DK_CONTEXTS]; /* 1 where a context keeps one more raw byte */
} constants;

INLINE constants constants_of(const dk_block *b, const dk_plan *plan)
{
    constants k;
    k.image_and = b->is_float ? 0xffffffffu : 0;
    k.image_or = b->is_float ? 0x80000000u : 0;
    k.low = (int32_t)plan->low;
    k.last_context = (int32_t)plan->contexts - 1;
    k.key_shift = plan->key_shift + 32 - 8 * b->word;
    for (uint32_t c = 0; c < DK_CONTEXTS; c++) k.more[c] = plan->extra >> c & 1;
    return k;
}

/* One of two without a branch: processors cannot guess which, and compilers like to. */
INLINE uint32_t choose(uint32_t condition, uint32_t yes, uint32_t no) { return no ^ ((no ^ yes) & (0 - condition)); }

INLINE uint32_t image(uint32_t x, const constants *k) { return x ^ ((dk_sign(x) & k->image_and) | k->image_or); }

INLINE uint32_t from_image(uint32_t x, const constants *k) { return x ^ ((dk_sign(~x) & k->image_and) | k->image_or); }

/* 64 words from element start on, their bits at the top. */
INLINE void load_row(const uint8_t *words, uint64_t start, uint32_t word, uint32_t row[DK_LANES])
{
    if (!words) {
        memset(row, 0, DK_LANES * sizeof *row);
    } else if (word == 2) {
        uint16_t halves[DK_LANES];
        memcpy(halves, words + 2 * start, sizeof halves);
        for (int i = 0; i < DK_LANES; i++) row[i] = (uint32_t)halves[i] << 16;
    } else {
        memcpy(row, words + 4 * start, DK_LANES * sizeof *row);
    }
}

INLINE void contexts_of_row(const dk_block *b, uint64_t start, const uint32_t prediction[DK_LANES], const constants *k,
                            int array, int32_t context[DK_LANES])
{
    if (array)
        for (int i = 0; i < DK_LANES; i++) context[i] = b->context[start + (uint64_t)i];
    else
        for (int i = 0; i < DK_LANES; i++) context[i] = (int32_t)((prediction[i] << 1) >> k->key_shift);
    for (int i = 0; i < DK_LANES; i++) {
        int32_t above = context[i] - k->low;
        above = above > 0 ? above : 0;
        context[i] = above < k->last_context ? above : k->last_context;
    }
}

INLINE void residuals_of_row(const uint32_t value[DK_LANES], const uint32_t prediction[DK_LANES], const constants *k,
                             uint32_t word, uint32_t z[DK_LANES])
{
    for (int i = 0; i < DK_LANES; i++) {
        uint32_t v = image(value[i], k), p = image(prediction[i], k);
        if (word == 2) {
            /* Images of negative halves have ones below; they must not borrow. */
            uint32_t d = ((v >> 16) - (p >> 16)) << 16;
            z[i] = ((d << 1) ^ dk_sign(d)) >> 16;
        } else {
            uint32_t d = v - p;
            z[i] = (d << 1) ^ dk_sign(d);
        }
    }
}

/* Residuals of a row, what is above their raw bits, the cells of their symbols, and which keep one more byte. */
typedef struct {
    uint32_t z[DK_LANES], high[DK_LANES], cell[DK_LANES], more[DK_LANES];
} row_symbols;

INLINE void symbols_of_row(const dk_block *b, const dk_plan *plan, const constants *k, uint64_t start, uint32_t word,
                           int array, row_symbols *r)
{
    const uint32_t shift = plan->shift, extra = plan->extra;
    uint32_t value[DK_LANES], prediction[DK_LANES];
    int32_t context[DK_LANES];
    load_row(b->values, start, word, value);
    load_row(b->prediction, start, word, prediction);
    contexts_of_row(b, start, prediction, k, array, context);
    residuals_of_row(value, prediction, k, word, r->z);
    if (extra) {
        for (int i = 0; i < DK_LANES; i++) r->more[i] = k->more[context[i]];
        for (int i = 0; i < DK_LANES; i++) {
            uint32_t near = r->z[i] >> shift;
            r->high[i] = choose(r->more[i], near >> 8, near);
        }
    } else {
        for (int i = 0; i < DK_LANES; i++) r->high[i] = r->z[i] >> shift;
    }
    for (int i = 0; i < DK_LANES; i++) {
        uint32_t symbol = r->high[i] >> 8 ? DK_ESCAPE : r->high[i];
        r->cell[i] = (uint32_t)context[i] << 8 | symbol;
    }
}

INLINE void put_raw_row(dk_encoder *e, uint32_t shift, uint64_t start, const uint32_t z[DK_LANES])
{
    uint32_t at = 0;
    if (shift & 16) {
        uint16_t halves[DK_LANES];
        for (int i = 0; i < DK_LANES; i++) halves[i] = (uint16_t)z[i];
        memcpy(e->wide + 2 * start, halves, sizeof halves);
        at = 16;
    }
    if (shift & 8) {
        uint8_t bytes[DK_LANES];
        for (int i = 0; i < DK_LANES; i++) bytes[i] = (uint8_t)(z[i] >> at);
        memcpy(e->byte + start, bytes, sizeof bytes);
        at += 8;
    }
    if (shift & 4) {
        uint8_t pairs[DK_LANES / 2];
        for (int i = 0; i < DK_LANES / 2; i++)
            pairs[i] = (uint8_t)((z[2 * i] >> at & 15) | (z[2 * i + 1] >> at & 15) << 4);
        memcpy(e->nibble + start / 2, pairs, sizeof pairs);
    }
}

INLINE void get_raw_row(const dk_decoder *d, uint32_t shift, uint64_t start, uint32_t low[DK_LANES])
{
    uint32_t at = 0;
    memset(low, 0, DK_LANES * sizeof *low);
    if (shift & 16) {
        uint16_t halves[DK_LANES];
        memcpy(halves, d->wide + 2 * start, sizeof halves);
        for (int i = 0; i < DK_LANES; i++) low[i] = halves[i];
        at = 16;
    }
    if (shift & 8) {
        uint8_t bytes[DK_LANES];
        memcpy(bytes, d->byte + start, sizeof bytes);
        for (int i = 0; i < DK_LANES; i++) low[i] |= (uint32_t)bytes[i] << at;
        at += 8;
    }
    if (shift & 4) {
        uint8_t pairs[DK_LANES / 2];
        memcpy(pairs, d->nibble + start / 2, sizeof pairs);
        for (int i = 0; i < DK_LANES / 2; i++) {
            low[2 * i] |= (uint32_t)(pairs[i] & 15) << at;
            low[2 * i + 1] |= (uint32_t)(pairs[i] >> 4) << at;
        }
    }
}

INLINE int encode_rows(const dk_block *block, const dk_plan *plan, const dk_encode_table *table, dk_encoder *given,
                       uint64_t start, uint64_t rows, uint32_t word, int array, uint32_t lanes)
{
    /* Copies, so that a compiler sees that no store through a stream's pointer changes them. */
    const dk_block own = *block;
    dk_encoder copy = *given, *e = &copy;
    const constants k = constants_of(&own, plan);
    const uint32_t shift = plan->shift, extra = plan->extra, whole = 1u << PRECISION;
    for (uint64_t at = start; at < start + rows * DK_LANES; at += DK_LANES) {
        row_symbols r;
        uint8_t *words = e->words;
        if (e->words_end - words < 2 * DK_LANES) return DK_TOO_LARGE;
        symbols_of_row(&own, plan, &k, dk_at(&own, at), word, array, &r);
        put_raw_row(e, shift, at, r.z);
        if (extra) {
            uint8_t *extras = e->extras;
            for (int i = 0; i < DK_LANES; i++) {
                *extras = (uint8_t)(r.z[i] >> shift);
                extras += r.more[i];
            }
            e->extras = extras;
        }
        for (int i = 0; i < DK_LANES; i++) {
            const uint32_t info = table->info[r.cell[i]], f = info & 0xfff, x = e->state[i & lanes];
            const uint32_t full = x >= f << (31 - PRECISION);
            const uint16_t low = (uint16_t)x;
            if (info >> 31) {
                memcpy(e->escapes, &r.high[i], word);
                e->escapes += word;
            }
            memcpy(words, &low, 2);
            words += 2 * full;
            const uint32_t left = choose(full, x >> 16, x);
            const uint32_t q = (uint32_t)((uint64_t)left * table->reciprocal[r.cell[i]] >> (32 + (info >> 25 & 15)));
            e->state[i & lanes] = left + (info >> 12 & 0x1fff) + q * (whole - f);
        }
        e->words = words;
    }
    *given = copy;
    return 0;
}

INLINE int decode_rows(const dk_block *block, const dk_plan *plan, const uint32_t *table, dk_decoder *given, uint8_t *out,
                       uint64_t start, uint64_t rows, uint32_t word, int array, uint32_t lanes)
{
    const dk_block own = *block;
    dk_decoder copy = *given, *d = &copy;
    const constants k = constants_of(&own, plan);
    const uint32_t shift = plan->shift, extra = plan->extra, slots = (1u << PRECISION) - 1;
    for (uint64_t at = start + rows * DK_LANES; at > start;) {
        uint32_t prediction[DK_LANES], z[DK_LANES], high[DK_LANES], more[DK_LANES], next[DK_LANES];
        int32_t context[DK_LANES];
        at -= DK_LANES;
        /* Near the start of a stream each element is looked at on its own. */
        if (d->words - d->words_start < 2 * DK_LANES || (extra && d->extras - d->extras_start < DK_LANES)) {
            int failed = dk_decode_some(&own, plan, table, d, out, at, DK_LANES);
            if (failed) return failed;
            continue;
        }
        const uint64_t from = dk_at(&own, at);
        load_row(own.prediction, from, word, prediction);
        contexts_of_row(&own, from, prediction, &k, array, context);
        get_raw_row(d, shift, at, z);
        const uint8_t *words = d->words;
        uint32_t escaped = 0;
        for (int i = DK_LANES - 1; i >= 0; i--) {
            const uint32_t x = d->state[i & lanes], entry = table[((uint32_t)context[i] << PRECISION) + (x & slots)];
            const uint32_t y = (entry >> 8 & 0xfff) * (x >> PRECISION) + (entry >> 20);
            const uint32_t empty = y < DK_STATE_LOW;
            uint16_t low;
            memcpy(&low, words - 2, 2);
            words -= 2 * empty;
            d->state[i & lanes] = choose(empty, y << 16 | low, y);
            high[i] = entry & 255;
        }
        d->words = words;
        for (int i = 0; i < DK_LANES; i++) escaped |= high[i] + 1; /* only the escape gets bit 8 */
        if (escaped >> 8)
            for (int i = DK_LANES - 1; i >= 0; i--) {
                if (high[i] != DK_ESCAPE) continue;
                if (d->escapes - d->escapes_start < (ptrdiff_t)word) return DK_STREAM;
                d->escapes -= word;
                high[i] = 0;
                memcpy(&high[i], d->escapes, word);
            }
        if (extra) {
            const uint8_t *extras = d->extras;
            for (int i = DK_LANES - 1; i >= 0; i--) {
                more[i] = k.more[context[i]];
                next[i] = extras[-1];
                extras -= more[i];
            }
            d->extras = extras;
            for (int i = 0; i < DK_LANES; i++)
                z[i] |= choose(more[i], high[i] << 8 | next[i], high[i]) << shift;
        } else {
            for (int i = 0; i < DK_LANES; i++) z[i] |= high[i] << shift;
        }
        if (word == 2) {
            uint16_t values[DK_LANES];
            for (int i = 0; i < DK_LANES; i++) {
                /* Of a damaged escape, what does not fit is dropped. */
                const uint32_t low = z[i] & 0xffff, r = low >> 1 ^ (0 - (low & 1));
                values[i] = (uint16_t)(from_image(image(prediction[i], &k) + (r << 16), &k) >> 16);
            }
            memcpy(out + 2 * from, values, sizeof values);
        } else {
            uint32_t values[DK_LANES];
            for (int i = 0; i < DK_LANES; i++) {
                const uint32_t r = z[i] >> 1 ^ (0 - (z[i] & 1));
                values[i] = from_image(image(prediction[i], &k) + r, &k);
            }
            memcpy(out + 4 * from, values, sizeof values);
        }
    }
    *given = copy;
    return 0;
}

/* Loops of their own for 64 states, whose number a compiler then knows. */
INLINE int encode_words(const dk_block *b, const dk_plan *plan, const dk_encode_table *table, dk_encoder *e,
                        uint64_t start, uint64_t rows, uint32_t word, int array)
{
    return plan->lanes_log2 == 6 ? encode_rows(b, plan, table, e, start, rows, word, array, DK_LANES - 1)
                                 : encode_rows(b, plan, table, e, start, rows, word, array, (1u << plan->lanes_log2) - 1);
}

INLINE int decode_words(const dk_block *b, const dk_plan *plan, const uint32_t *table, dk_decoder *d, uint8_t *out,
                        uint64_t start, uint64_t rows, uint32_t word, int array)
{
    return plan->lanes_log2 == 6
               ? decode_rows(b, plan, table, d, out, start, rows, word, array, DK_LANES - 1)
               : decode_rows(b, plan, table, d, out, start, rows, word, array, (1u << plan->lanes_log2) - 1);
}

int dk_encode_rows_scalar(const dk_block *b, const dk_plan *plan, const dk_encode_table *table, dk_encoder *e,
                          uint64_t start, uint64_t rows)
{
    int array = plan->key_shift == DK_CONTEXT_ARRAY;
    if (plan->precision != PRECISION) return dk_encode_some(b, plan, table, e, start, rows * DK_LANES);
    if (b->word == 2)
        return array ? encode_words(b, plan, table, e, start, rows, 2, 1) : encode_words(b, plan, table, e, start, rows, 2, 0);
    return array ? encode_words(b, plan, table, e, start, rows, 4, 1) : encode_words(b, plan, table, e, start, rows, 4, 0);
}

int dk_decode_rows_scalar(const dk_block *b, const dk_plan *plan, const uint32_t *table, dk_decoder *d, uint8_t *out,
                          uint64_t start, uint64_t rows)
{
    int array = plan->key_shift == DK_CONTEXT_ARRAY;
    if (plan->precision != PRECISION) return dk_decode_some(b, plan, table, d, out, start, rows * DK_LANES);
    if (b->word == 2)
        return array ? decode_words(b, plan, table, d, out, start, rows, 2, 1)
                     : decode_words(b, plan, table, d, out, start, rows, 2, 0);
    return array ? decode_words(b, plan, table, d, out, start, rows, 4, 1)
                 : decode_words(b, plan, table, d, out, start, rows, 4, 0);
}

void dk_index_runs_scalar(const dk_block *b, const dk_plan *plan, const uint64_t *starts, uint32_t runs, uint16_t *index)
{
    const constants k = constants_of(b, plan);
    int array = plan->key_shift == DK_CONTEXT_ARRAY;
    row_symbols r;
    for (uint32_t run = 0; run < runs; run++) {
        if (b->word == 2)
            symbols_of_row(b, plan, &k, starts[run], 2, array, &r);
        else
            symbols_of_row(b, plan, &k, starts[run], 4, array, &r);
        for (int i = 0; i < DK_LANES; i++) *index++ = (uint16_t)r.cell[i];
    }
}

INLINE void size_rows(const dk_block *b, const dk_survey *survey, uint32_t row_log2, int32_t *out, uint32_t word)
{
    const constants k = constants_of(b, &survey->plan);
    const int array = survey->plan.key_shift == DK_CONTEXT_ARRAY, alone = dk_is_alone(&survey->plan);
    for (uint64_t r = 0; r < b->count >> row_log2; r++) {
        uint32_t value[DK_LANES], prediction[DK_LANES], z[DK_LANES];
        int32_t context[DK_LANES], sum = 0;
        dk_prefetch_row(b, r, row_log2);
        load_row(b->values, r << row_log2, word, value);
        load_row(b->prediction, r << row_log2, word, prediction);
        contexts_of_row(b, r << row_log2, prediction, &k, array, context);
        residuals_of_row(value, prediction, &k, word, z);
        if (alone)
            for (int i = 0; i < DK_LANES; i++) sum += (int32_t)dk_size(z[i], 1, 8 * word);
        else
            for (int i = 0; i < DK_LANES; i++) sum += (int32_t)dk_size(z[i], 0, 8 * word);
        sum *= 16;
        for (int i = 0; i < DK_LANES; i++) sum -= (int32_t)survey->sizes[context[i]];
        out[r] = sum;
    }
}

void dk_size_rows_scalar(const dk_block *b, const dk_survey *survey, uint32_t row_log2, int32_t *out)
{
    if (b->word == 2)
        size_rows(b, survey, row_log2, out, 2);
    else
        size_rows(b, survey, row_log2, out, 4);
}
