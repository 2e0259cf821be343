/* The inner loops for AVX2: 8 states a vector, eight vectors a row. */
#include "rans.h"

#if DK_X86
#include <immintrin.h>

#define TARGET __attribute__((target("avx2,popcnt,bmi,bmi2")))
#define INLINE static inline __attribute__((always_inline)) TARGET
#define VECTOR 8
#define PER_ROW (DK_LANES / VECTOR)

/* For each set of lanes, where its members move to (pack) or come from (spread). */
typedef struct {
    uint8_t pack[256][VECTOR], spread[256][VECTOR];
} moves;

static void fill_moves(moves *m)
{
    for (uint32_t mask = 0; mask < 256; mask++) {
        uint32_t used = 0;
        memset(m->pack[mask], 0, VECTOR);
        for (uint32_t lane = 0; lane < VECTOR; lane++) {
            m->spread[mask][lane] = (uint8_t)(used & 7);
            if (mask >> lane & 1) m->pack[mask][used++] = (uint8_t)lane;
        }
    }
}

INLINE __m256i move(__m256i x, const uint8_t to[VECTOR])
{
    return _mm256_permutevar8x32_epi32(x, _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)to)));
}

INLINE uint32_t mask_of(__m256i lanes) { return (uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(lanes)); }

INLINE __m128i to_halves(__m256i x)
{
    x = _mm256_and_si256(x, _mm256_set1_epi32(0xffff));
    return _mm_packus_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
}

INLINE __m128i to_bytes(__m256i x)
{
    __m128i halves = to_halves(_mm256_and_si256(x, _mm256_set1_epi32(255)));
    return _mm_packus_epi16(halves, halves);
}

INLINE __m256i from_halves(const uint8_t *in) { return _mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)in)); }

INLINE __m256i from_bytes(const uint8_t *in) { return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)in)); }

typedef struct {
    __m256i image_and, image_or, low, last_context, base, extra;
    __m128i key_shift;
} constants;

INLINE constants constants_of(const dk_block *b, const dk_plan *plan)
{
    constants k;
    k.image_and = _mm256_set1_epi32(b->is_float ? -1 : 0);
    k.image_or = _mm256_set1_epi32(b->is_float ? (int)0x80000000u : 0);
    k.low = _mm256_set1_epi32((int)plan->low);
    k.last_context = _mm256_set1_epi32((int)plan->contexts - 1);
    k.base = _mm256_set1_epi32((int)plan->shift);
    k.extra = _mm256_set1_epi32((int)plan->extra);
    k.key_shift = _mm_cvtsi32_si128((int)(plan->key_shift + 32 - 8 * b->word));
    return k;
}

/* 8 words from element i on, their bits at the top. */
INLINE __m256i load(const uint8_t *words, uint64_t i, int half)
{
    if (half) return _mm256_slli_epi32(from_halves(words + 2 * i), 16);
    return _mm256_loadu_si256((const void *)(words + 4 * i));
}

INLINE __m256i image(__m256i x, const constants *k)
{
    __m256i sign = _mm256_and_si256(_mm256_srai_epi32(x, 31), k->image_and);
    return _mm256_xor_si256(x, _mm256_or_si256(sign, k->image_or));
}

INLINE __m256i from_image(__m256i x, const constants *k)
{
    __m256i sign = _mm256_andnot_si256(_mm256_srai_epi32(x, 31), k->image_and);
    return _mm256_xor_si256(x, _mm256_or_si256(sign, k->image_or));
}

INLINE __m256i residual(__m256i value, __m256i image_of_prediction, const constants *k, int half)
{
    __m256i v = image(value, k), p = image_of_prediction;
    if (half) {
        /* Images of negative halves have ones below; they must not borrow. */
        v = _mm256_srli_epi32(v, 16);
        p = _mm256_srli_epi32(p, 16);
    }
    __m256i r = _mm256_sub_epi32(v, p);
    if (half) r = _mm256_slli_epi32(r, 16);
    __m256i z = _mm256_xor_si256(_mm256_add_epi32(r, r), _mm256_srai_epi32(r, 31));
    return half ? _mm256_srli_epi32(z, 16) : z;
}

INLINE __m256i context(const dk_block *b, __m256i prediction, uint64_t i, const constants *k, int array)
{
    __m256i key = array ? from_bytes(b->context + i)
                        : _mm256_srl_epi32(_mm256_add_epi32(prediction, prediction), k->key_shift);
    key = _mm256_sub_epi32(_mm256_max_epu32(key, k->low), k->low);
    return _mm256_min_epu32(key, k->last_context);
}

/* All ones where the context keeps one more byte. */
INLINE __m256i has_extra(__m256i c, const constants *k)
{
    __m256i bit = _mm256_and_si256(_mm256_srlv_epi32(k->extra, c), _mm256_set1_epi32(1));
    return _mm256_sub_epi32(_mm256_setzero_si256(), bit);
}

INLINE __m256i shifts_of(__m256i more, const constants *k)
{
    return _mm256_add_epi32(k->base, _mm256_and_si256(more, _mm256_set1_epi32(8)));
}

INLINE void put_raw(dk_encoder *e, uint32_t shift, uint64_t i, __m256i z)
{
    if (shift & 16) {
        _mm_storeu_si128((void *)(e->wide + 2 * i), to_halves(z));
        z = _mm256_srli_epi32(z, 16);
    }
    if (shift & 8) {
        _mm_storel_epi64((void *)(e->byte + i), to_bytes(z));
        z = _mm256_srli_epi32(z, 8);
    }
    if (shift & 4) {
        __m128i bytes = to_bytes(_mm256_and_si256(z, _mm256_set1_epi32(15)));
        __m128i pairs = _mm_maddubs_epi16(bytes, _mm_set1_epi16(0x1001));
        uint32_t four = (uint32_t)_mm_cvtsi128_si32(_mm_packus_epi16(pairs, pairs));
        memcpy(e->nibble + i / 2, &four, 4);
    }
}

INLINE __m256i get_raw(const dk_decoder *d, uint32_t shift, uint64_t i)
{
    __m256i low = _mm256_setzero_si256();
    if (shift & 16) low = from_halves(d->wide + 2 * i);
    if (shift & 8) {
        __m256i next = from_bytes(d->byte + i);
        low = _mm256_or_si256(low, shift & 16 ? _mm256_slli_epi32(next, 16) : next);
    }
    if (shift & 4) {
        int four;
        memcpy(&four, d->nibble + i / 2, 4);
        __m128i pairs = _mm_cvtepu8_epi16(_mm_cvtsi32_si128(four));
        __m128i bytes = _mm_and_si128(_mm_or_si128(pairs, _mm_slli_epi16(pairs, 4)), _mm_set1_epi16(0x0f0f));
        __m256i next = _mm256_cvtepu8_epi32(bytes);
        low = _mm256_or_si256(low, _mm256_sll_epi32(next, _mm_cvtsi32_si128((int)shift & 24)));
    }
    return low;
}

/* floor(x * reciprocal / 2^32) in every lane. */
INLINE __m256i multiply_high(__m256i x, __m256i reciprocal)
{
    __m256i even = _mm256_srli_epi64(_mm256_mul_epu32(x, reciprocal), 32);
    __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(x, 32), _mm256_srli_epi64(reciprocal, 32));
    return _mm256_blend_epi32(even, odd, 0xAA);
}

INLINE __m256i cells(const dk_block *b, const constants *k, uint64_t i, int half, int array, __m256i *z, __m256i *high,
                     __m256i *more)
{
    __m256i p = b->prediction ? load(b->prediction, i, half) : _mm256_setzero_si256();
    __m256i c = context(b, p, i, k, array);
    *z = residual(load(b->values, i, half), image(p, k), k, half);
    *more = has_extra(c, k);
    *high = _mm256_srlv_epi32(*z, shifts_of(*more, k));
    return _mm256_or_si256(_mm256_slli_epi32(c, 8), _mm256_min_epu32(*high, _mm256_set1_epi32(DK_ESCAPE)));
}

INLINE int encode_rows(const dk_block *block, const dk_plan *plan, const dk_encode_table *table, dk_encoder *given,
                       uint64_t start, uint64_t rows, int half, int array)
{
    /* Copies, so that a compiler sees that no store through a stream's pointer changes them. */
    const dk_block own = *block, *b = &own;
    dk_encoder copy = *given, *e = &copy;
    moves m;
    const constants k = constants_of(b, plan);
    const __m256i whole = _mm256_set1_epi32(1 << plan->precision);
    const __m128i room = _mm_cvtsi32_si128((int)(31 - plan->precision)), shift = _mm_cvtsi32_si128((int)plan->shift);
    const uint32_t lanes = (1u << plan->lanes_log2) - 1;
    fill_moves(&m);
    for (uint64_t i = start; i < start + rows * DK_LANES; i += DK_LANES) {
        const uint64_t from = dk_at(b, i);
        dk_prefetch_ahead(b, i);
        if (e->words_end - e->words < 2 * DK_LANES) return DK_TOO_LARGE;
        for (uint32_t v = 0; v < PER_ROW; v++) {
            uint64_t at = i + VECTOR * v;
            uint32_t *state = e->state + (VECTOR * v & lanes);
            __m256i z, high, more, x = _mm256_loadu_si256((const void *)state);
            __m256i cell = cells(b, &k, from + VECTOR * v, half, array, &z, &high, &more);
            __m256i info = _mm256_i32gather_epi32((const int *)table->info, cell, 4);
            __m256i reciprocal = _mm256_i32gather_epi32((const int *)table->reciprocal, cell, 4);
            put_raw(e, plan->shift, at, z);
            if (plan->extra) {
                uint32_t taken = mask_of(more);
                _mm_storel_epi64((void *)e->extras, to_bytes(move(_mm256_srl_epi32(z, shift), m.pack[taken])));
                e->extras += _mm_popcnt_u32(taken);
            }
            uint32_t escaped = mask_of(info);
            if (__builtin_expect(escaped != 0, 0)) {
                __m256i far = move(high, m.pack[escaped]);
                if (half)
                    _mm_storeu_si128((void *)e->escapes, to_halves(far));
                else
                    _mm256_storeu_si256((void *)e->escapes, far);
                e->escapes += b->word * (uint32_t)_mm_popcnt_u32(escaped);
            }
            __m256i f = _mm256_and_si256(info, _mm256_set1_epi32(0xfff));
            __m256i fits = _mm256_cmpgt_epi32(_mm256_sll_epi32(f, room), x);
            uint32_t full = mask_of(fits) ^ 255;
            _mm_storeu_si128((void *)e->words, to_halves(move(x, m.pack[full])));
            e->words += 2 * _mm_popcnt_u32(full);
            x = _mm256_blendv_epi8(_mm256_srli_epi32(x, 16), x, fits);
            __m256i q = multiply_high(x, reciprocal);
            q = _mm256_srlv_epi32(q, _mm256_and_si256(_mm256_srli_epi32(info, 25), _mm256_set1_epi32(15)));
            __m256i bias = _mm256_and_si256(_mm256_srli_epi32(info, 12), _mm256_set1_epi32(0x1fff));
            q = _mm256_mullo_epi32(q, _mm256_sub_epi32(whole, f));
            x = _mm256_add_epi32(_mm256_add_epi32(x, bias), q);
            _mm256_storeu_si256((void *)state, x);
        }
    }
    *given = copy;
    return 0;
}

INLINE int decode_rows(const dk_block *block, const dk_plan *plan, const uint32_t *table, dk_decoder *given, uint8_t *out,
                       uint64_t start, uint64_t rows, int half, int array)
{
    const dk_block own = *block, *b = &own;
    dk_decoder copy = *given, *d = &copy;
    moves m;
    const constants k = constants_of(b, plan);
    const __m128i precision = _mm_cvtsi32_si128((int)plan->precision), shift = _mm_cvtsi32_si128((int)plan->shift);
    const __m256i slots = _mm256_set1_epi32((1 << plan->precision) - 1), zero = _mm256_setzero_si256();
    const uint32_t lanes = (1u << plan->lanes_log2) - 1;
    fill_moves(&m);
    for (uint64_t i = start + rows * DK_LANES; i > start;) {
        i -= DK_LANES;
        const uint64_t from = dk_at(b, i);
        dk_prefetch_behind(b, i);
        for (uint32_t v = PER_ROW; v-- > 0;) {
            uint64_t at = i + VECTOR * v, here = from + VECTOR * v;
            uint32_t *state = d->state + (VECTOR * v & lanes);
            __m256i x = _mm256_loadu_si256((const void *)state);
            __m256i p = b->prediction ? load(b->prediction, here, half) : zero;
            __m256i c = context(b, p, here, &k, array);
            __m256i cell = _mm256_add_epi32(_mm256_sll_epi32(c, precision), _mm256_and_si256(x, slots));
            __m256i entry = _mm256_i32gather_epi32((const int *)table, cell, 4);
            __m256i f = _mm256_and_si256(_mm256_srli_epi32(entry, 8), _mm256_set1_epi32(0xfff));
            x = _mm256_mullo_epi32(f, _mm256_srl_epi32(x, precision));
            x = _mm256_add_epi32(x, _mm256_srli_epi32(entry, 20));
            /* States are below 2^31, so that a signed comparison does. */
            __m256i empty = _mm256_cmpgt_epi32(_mm256_set1_epi32(DK_STATE_LOW), x);
            uint32_t taken = mask_of(empty);
            ptrdiff_t bytes = 2 * (ptrdiff_t)_mm_popcnt_u32(taken);
            if (__builtin_expect(d->words - d->words_start < bytes, 0)) return DK_STREAM;
            d->words -= bytes;
            /* What is loaded past the stream's end is in the states, which follow. */
            __m256i words = move(from_halves(d->words), m.spread[taken]);
            words = _mm256_or_si256(_mm256_slli_epi32(x, 16), words);
            _mm256_storeu_si256((void *)state, _mm256_blendv_epi8(x, words, empty));

            __m256i high = _mm256_and_si256(entry, _mm256_set1_epi32(255)), z = get_raw(d, plan->shift, at);
            __m256i shifts = k.base;
            if (plan->extra) {
                __m256i more = has_extra(c, &k);
                taken = mask_of(more);
                bytes = _mm_popcnt_u32(taken);
                if (__builtin_expect(d->extras - d->extras_start < bytes, 0)) return DK_STREAM;
                d->extras -= bytes;
                __m256i next = _mm256_and_si256(move(from_bytes(d->extras), m.spread[taken]), more);
                z = _mm256_or_si256(z, _mm256_sll_epi32(next, shift));
                shifts = shifts_of(more, &k);
            }
            __m256i far = _mm256_cmpeq_epi32(high, _mm256_set1_epi32(DK_ESCAPE));
            taken = mask_of(far);
            if (__builtin_expect(taken != 0, 0)) {
                bytes = (ptrdiff_t)(b->word * (uint32_t)_mm_popcnt_u32(taken));
                if (d->escapes - d->escapes_start < bytes) return DK_STREAM;
                d->escapes -= bytes;
                __m256i found = half ? from_halves(d->escapes) : _mm256_loadu_si256((const void *)d->escapes);
                high = _mm256_blendv_epi8(high, move(found, m.spread[taken]), far);
            }
            z = _mm256_or_si256(z, _mm256_sllv_epi32(high, shifts));
            /* Of a damaged escape, what does not fit is dropped. */
            if (half) z = _mm256_and_si256(z, _mm256_set1_epi32(0xffff));
            __m256i sign = _mm256_sub_epi32(zero, _mm256_and_si256(z, _mm256_set1_epi32(1)));
            __m256i r = _mm256_xor_si256(_mm256_srli_epi32(z, 1), sign);
            if (half) r = _mm256_slli_epi32(r, 16);
            __m256i value = from_image(_mm256_add_epi32(image(p, &k), r), &k);
            if (half)
                _mm_storeu_si128((void *)(out + 2 * here), to_halves(_mm256_srli_epi32(value, 16)));
            else
                _mm256_storeu_si256((void *)(out + 4 * here), value);
        }
    }
    *given = copy;
    return 0;
}

TARGET int dk_encode_rows_avx2(const dk_block *b, const dk_plan *plan, const dk_encode_table *table, dk_encoder *e,
                               uint64_t start, uint64_t rows)
{
    int array = plan->key_shift == DK_CONTEXT_ARRAY;
    if (b->word == 2)
        return array ? encode_rows(b, plan, table, e, start, rows, 1, 1) : encode_rows(b, plan, table, e, start, rows, 1, 0);
    return array ? encode_rows(b, plan, table, e, start, rows, 0, 1) : encode_rows(b, plan, table, e, start, rows, 0, 0);
}

TARGET int dk_decode_rows_avx2(const dk_block *b, const dk_plan *plan, const uint32_t *table, dk_decoder *d, uint8_t *out,
                               uint64_t start, uint64_t rows)
{
    int array = plan->key_shift == DK_CONTEXT_ARRAY;
    if (b->word == 2)
        return array ? decode_rows(b, plan, table, d, out, start, rows, 1, 1)
                     : decode_rows(b, plan, table, d, out, start, rows, 1, 0);
    return array ? decode_rows(b, plan, table, d, out, start, rows, 0, 1)
                 : decode_rows(b, plan, table, d, out, start, rows, 0, 0);
}

TARGET void dk_index_runs_avx2(const dk_block *b, const dk_plan *plan, const uint64_t *starts, uint32_t runs,
                               uint16_t *index)
{
    const constants k = constants_of(b, plan);
    const int array = plan->key_shift == DK_CONTEXT_ARRAY, half = b->word == 2;
    for (uint32_t run = 0; run < runs; run++)
        for (uint64_t v = 0; v < PER_ROW; v++) {
            __m256i z, high, more;
            __m256i cell = cells(b, &k, starts[run] + VECTOR * v, half, array, &z, &high, &more);
            _mm_storeu_si128((void *)index, to_halves(cell));
            index += VECTOR;
        }
}

INLINE void size_rows(const dk_block *b, const dk_survey *survey, uint32_t row_log2, int32_t *out, int half, int array)
{
    const constants k = constants_of(b, &survey->plan);
    const int alone = dk_is_alone(&survey->plan);
    const __m128i top = _mm_cvtsi32_si128((int)(8 * b->word - 10));
    const __m256i one = _mm256_set1_epi32(1);
    for (uint64_t r = 0; r < b->count >> row_log2; r++) {
        __m256i sum = _mm256_setzero_si256();
        dk_prefetch_row(b, r, row_log2);
        for (uint64_t i = r << row_log2, end = i + DK_LANES; i < end; i += VECTOR) {
            __m256i p = b->prediction ? load(b->prediction, i, half) : _mm256_setzero_si256(), size;
            __m256i c = context(b, p, i, &k, array), z = residual(load(b->values, i, half), image(p, &k), &k, half);
            if (alone) {
                size = _mm256_srl_epi32(z, top);
            } else {
                z = _mm256_add_epi32(_mm256_min_epu32(z, _mm256_set1_epi32(DK_SIZE_MOST)), one);
                size = _mm256_srli_epi32(_mm256_castps_si256(_mm256_cvtepi32_ps(z)), DK_SIZE_SHIFT);
                size = _mm256_sub_epi32(size, _mm256_set1_epi32(DK_SIZE_OF_ONE));
            }
            __m256i mean = _mm256_i32gather_epi32((const int *)survey->sizes, c, 4);
            sum = _mm256_add_epi32(sum, _mm256_sub_epi32(_mm256_slli_epi32(size, 4), mean));
        }
        __m128i four = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
        four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
        four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1));
        out[r] = _mm_cvtsi128_si32(four);
    }
}

TARGET void dk_size_rows_avx2(const dk_block *b, const dk_survey *survey, uint32_t row_log2, int32_t *out)
{
    const int array = survey->plan.key_shift == DK_CONTEXT_ARRAY;
    if (b->word == 2)
        array ? size_rows(b, survey, row_log2, out, 1, 1) : size_rows(b, survey, row_log2, out, 1, 0);
    else
        array ? size_rows(b, survey, row_log2, out, 0, 1) : size_rows(b, survey, row_log2, out, 0, 0);
}
#endif
