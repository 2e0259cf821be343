/* The inner loops for AVX-512 (F, BW, VL, DQ): 16 states a vector, four vectors a row. */
#include "rans.h"

#if DK_X86
#include <immintrin.h>

#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,popcnt,bmi2")))
#define INLINE static inline __attribute__((always_inline)) TARGET

typedef struct {
    __m512i image_and, image_or, image_or_halves, low, last_context, shifts;
    unsigned key_shift;
} constants;

INLINE constants constants_of(const dk_block *b, const dk_plan *plan)
{
    constants k;
    uint32_t shifts[DK_CONTEXTS];
    for (uint32_t c = 0; c < DK_CONTEXTS; c++) shifts[c] = plan->shift + 8 * (plan->extra >> c & 1);
    k.image_and = _mm512_set1_epi32(b->is_float ? -1 : 0);
    k.image_or = _mm512_set1_epi32(b->is_float ? (int)0x80000000u : 0);
    k.image_or_halves = _mm512_set1_epi16(b->is_float ? (short)0x8000 : 0);
    k.low = _mm512_set1_epi32((int)plan->low);
    k.last_context = _mm512_set1_epi32((int)plan->contexts - 1);
    k.shifts = _mm512_loadu_si512(shifts);
    k.key_shift = plan->key_shift + 32 - 8 * b->word;
    return k;
}

/* 16 words from element i on, their bits at the top. */
INLINE __m512i load(const uint8_t *words, uint64_t i, int half)
{
    if (half) return _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)(words + 2 * i))), 16);
    return _mm512_loadu_si512(words + 4 * i);
}

INLINE __m512i image(__m512i x, const constants *k)
{
    __m512i sign = _mm512_srai_epi32(x, 31);
    __m512i mask = _mm512_ternarylogic_epi32(sign, k->image_and, k->image_or, 0xEA); /* (a & b) | c */
    return _mm512_xor_si512(x, mask);
}

/* The inverse: where the top bit is clear, all bits turn. */
INLINE __m512i from_image(__m512i x, const constants *k)
{
    __m512i sign = _mm512_srai_epi32(x, 31);
    __m512i mask = _mm512_ternarylogic_epi32(sign, k->image_and, k->image_or, 0xAE); /* (~a & b) | c */
    return _mm512_xor_si512(x, mask);
}

INLINE __m512i residual(__m512i value, __m512i image_of_prediction, const constants *k, int half)
{
    __m512i v = image(value, k);
    if (half) {
        /* Images of negative halves have ones below; they must not borrow. */
        v = _mm512_srli_epi32(v, 16);
        __m512i p = _mm512_srli_epi32(image_of_prediction, 16);
        __m512i r = _mm512_slli_epi32(_mm512_sub_epi32(v, p), 16);
        __m512i z = _mm512_xor_si512(_mm512_add_epi32(r, r), _mm512_srai_epi32(r, 31));
        return _mm512_srli_epi32(z, 16);
    }
    __m512i r = _mm512_sub_epi32(v, image_of_prediction);
    return _mm512_xor_si512(_mm512_add_epi32(r, r), _mm512_srai_epi32(r, 31));
}

INLINE __m512i context(const dk_block *b, __m512i prediction, uint64_t i, const constants *k, int array)
{
    __m512i key;
    if (array)
        key = _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)(b->context + i)));
    else
        key = _mm512_srl_epi32(_mm512_add_epi32(prediction, prediction), _mm_cvtsi32_si128((int)k->key_shift));
    key = _mm512_sub_epi32(_mm512_max_epu32(key, k->low), k->low);
    return _mm512_min_epu32(key, k->last_context);
}

/* 16 half bytes, the even lanes in the low halves. */
INLINE void put_nibbles(uint8_t *out, __m512i low)
{
    __m128i bytes = _mm512_cvtepi32_epi8(_mm512_and_si512(low, _mm512_set1_epi32(15)));
    __m128i pairs = _mm_maddubs_epi16(bytes, _mm_set1_epi16(0x1001));
    _mm_storel_epi64((void *)out, _mm_packus_epi16(pairs, pairs));
}

INLINE __m512i get_nibbles(const uint8_t *in)
{
    __m128i pairs = _mm_cvtepu8_epi16(_mm_loadl_epi64((const void *)in));
    __m128i bytes = _mm_and_si128(_mm_or_si128(pairs, _mm_slli_epi16(pairs, 4)), _mm_set1_epi16(0x0f0f));
    return _mm512_cvtepu8_epi32(bytes);
}

INLINE void put_raw(dk_encoder *e, uint32_t shift, uint64_t i, __m512i z)
{
    if (shift & 16) {
        _mm256_storeu_si256((void *)(e->wide + 2 * i), _mm512_cvtepi32_epi16(z));
        z = _mm512_srli_epi32(z, 16);
    }
    if (shift & 8) {
        _mm_storeu_si128((void *)(e->byte + i), _mm512_cvtepi32_epi8(z));
        z = _mm512_srli_epi32(z, 8);
    }
    if (shift & 4) put_nibbles(e->nibble + i / 2, z);
}

INLINE __m512i get_raw(const dk_decoder *d, uint32_t shift, uint64_t i)
{
    __m512i low = _mm512_setzero_si512();
    if (shift & 16) low = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)(d->wide + 2 * i)));
    if (shift & 8) {
        __m512i next = _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)(d->byte + i)));
        low = _mm512_or_si512(low, shift & 16 ? _mm512_slli_epi32(next, 16) : next);
    }
    if (shift & 4)
        low = _mm512_or_si512(low, _mm512_sll_epi32(get_nibbles(d->nibble + i / 2), _mm_cvtsi32_si128((int)shift & 24)));
    return low;
}

/* floor(x * reciprocal / 2^32) in every lane. */
INLINE __m512i multiply_high(__m512i x, __m512i reciprocal)
{
    __m512i even = _mm512_srli_epi64(_mm512_mul_epu32(x, reciprocal), 32);
    __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64(x, 32), _mm512_srli_epi64(reciprocal, 32));
    return _mm512_mask_blend_epi32(0xAAAA, even, odd);
}

/* Symbols of 16 elements: their cells in the tables, what is above the raw bits, and the residual. */
INLINE __m512i cells(const dk_block *b, const constants *k, uint64_t i, int half, int array, __m512i *z, __m512i *high,
                     __m512i *shifts)
{
    __m512i p = b->prediction ? load(b->prediction, i, half) : _mm512_setzero_si512();
    __m512i c = context(b, p, i, k, array);
    *z = residual(load(b->values, i, half), image(p, k), k, half);
    *shifts = _mm512_permutexvar_epi32(c, k->shifts);
    *high = _mm512_srlv_epi32(*z, *shifts);
    return _mm512_or_si512(_mm512_slli_epi32(c, 8), _mm512_min_epu32(*high, _mm512_set1_epi32(DK_ESCAPE)));
}

INLINE int encode_rows(const dk_block *block, const dk_plan *plan, const dk_encode_table *table, dk_encoder *given,
                       uint64_t start, uint64_t rows, int half, int array, int few)
{
    /* Copies, so that a compiler sees that no store through a stream's pointer changes them. */
    const dk_block own = *block, *b = &own;
    dk_encoder copy = *given, *e = &copy;
    const constants k = constants_of(b, plan);
    const __m512i whole = _mm512_set1_epi32(1 << plan->precision), base = _mm512_set1_epi32((int)plan->shift);
    const __m128i room = _mm_cvtsi32_si128((int)(31 - plan->precision));
    const uint32_t shift = plan->shift, extra = plan->extra, word = b->word;
    __m512i state[4];
    for (int v = 0; v < 4; v++) state[v] = _mm512_loadu_si512(e->state + 16 * v);
    for (uint64_t i = start; i < start + rows * DK_LANES; i += DK_LANES) {
        const uint64_t from = dk_at(b, i);
        dk_prefetch_ahead(b, i);
        if (e->words_end - e->words < 2 * DK_LANES) return DK_TOO_LARGE;
#pragma GCC unroll 4
        for (int v = 0; v < 4; v++) {
            uint64_t at = i + 16 * (uint64_t)v;
            const int lane = few ? 0 : v;
            __m512i z, high, shifts, x = state[lane];
            __m512i cell = cells(b, &k, from + 16 * (uint64_t)v, half, array, &z, &high, &shifts);
            __m512i info = _mm512_i32gather_epi32(cell, table->info, 4);
            __m512i reciprocal = _mm512_i32gather_epi32(cell, table->reciprocal, 4);
            put_raw(e, shift, at, z);
            if (extra) {
                __mmask16 more = _mm512_cmpneq_epi32_mask(shifts, base);
                __m512i bytes = _mm512_maskz_compress_epi32(more, _mm512_srl_epi32(z, _mm_cvtsi32_si128((int)shift)));
                _mm_storeu_si128((void *)e->extras, _mm512_cvtepi32_epi8(bytes));
                e->extras += _mm_popcnt_u32(more);
            }
            __mmask16 escaped = _mm512_movepi32_mask(info);
            if (__builtin_expect(escaped != 0, 0)) {
                __m512i far = _mm512_maskz_compress_epi32(escaped, high);
                if (half)
                    _mm256_storeu_si256((void *)e->escapes, _mm512_cvtepi32_epi16(far));
                else
                    _mm512_storeu_si512(e->escapes, far);
                e->escapes += word * (uint32_t)_mm_popcnt_u32(escaped);
            }
            __m512i f = _mm512_and_si512(info, _mm512_set1_epi32(0xfff));
            __mmask16 full = _mm512_cmpge_epu32_mask(x, _mm512_sll_epi32(f, room));
            __m512i words = _mm512_maskz_compress_epi32(full, x);
            _mm256_storeu_si256((void *)e->words, _mm512_cvtepi32_epi16(words));
            e->words += 2 * _mm_popcnt_u32(full);
            x = _mm512_mask_srli_epi32(x, full, x, 16);
            __m512i q = multiply_high(x, reciprocal);
            q = _mm512_srlv_epi32(q, _mm512_and_si512(_mm512_srli_epi32(info, 25), _mm512_set1_epi32(15)));
            __m512i bias = _mm512_and_si512(_mm512_srli_epi32(info, 12), _mm512_set1_epi32(0x1fff));
            q = _mm512_mullo_epi32(q, _mm512_sub_epi32(whole, f));
            state[lane] = _mm512_add_epi32(_mm512_add_epi32(x, bias), q);
        }
    }
    for (int v = 0; v < 4; v++) _mm512_storeu_si512(e->state + 16 * v, state[v]);
    *given = copy;
    return 0;
}

/* A state after its symbol, filled up from the words. Not 0 where there are too few. */
INLINE int advance(dk_decoder *d, __m512i *state, __m512i entry, __m128i precision)
{
    __m512i f = _mm512_and_si512(_mm512_srli_epi32(entry, 8), _mm512_set1_epi32(0xfff));
    __m512i x = _mm512_mullo_epi32(f, _mm512_srl_epi32(*state, precision));
    x = _mm512_add_epi32(x, _mm512_srli_epi32(entry, 20));
    __mmask16 empty = _mm512_cmplt_epu32_mask(x, _mm512_set1_epi32(DK_STATE_LOW));
    ptrdiff_t taken = 2 * (ptrdiff_t)_mm_popcnt_u32(empty);
    if (__builtin_expect(d->words - d->words_start < taken, 0)) return 1;
    d->words -= taken;
    /* What is loaded past the stream's end is in the states, which follow. */
    __m512i words = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)d->words));
    words = _mm512_maskz_expand_epi32(empty, words);
    *state = _mm512_or_si512(_mm512_mask_slli_epi32(x, empty, x, 16), words);
    return 0;
}

INLINE int decode_rows(const dk_block *block, const dk_plan *plan, const uint32_t *table, dk_decoder *given, uint8_t *out,
                       uint64_t start, uint64_t rows, int array, int few)
{
    const dk_block own = *block, *b = &own;
    dk_decoder copy = *given, *d = &copy;
    const constants k = constants_of(b, plan);
    const uint32_t shift = plan->shift, extra = plan->extra;
    const __m128i precision = _mm_cvtsi32_si128((int)plan->precision);
    const __m512i slots = _mm512_set1_epi32((1 << plan->precision) - 1), base = _mm512_set1_epi32((int)shift);
    const __m512i one = _mm512_set1_epi32(1), zero = _mm512_setzero_si512();
    __m512i state[4];
    for (int v = 0; v < 4; v++) state[v] = _mm512_loadu_si512(d->state + 16 * v);
    for (uint64_t i = start + rows * DK_LANES; i > start;) {
        i -= DK_LANES;
        const uint64_t from = dk_at(b, i);
        dk_prefetch_behind(b, i);
#pragma GCC unroll 4
        for (int v = 3; v >= 0; v--) {
            uint64_t at = i + 16 * (uint64_t)v, here = from + 16 * (uint64_t)v;
            const int lane = few ? 0 : v;
            __m512i x = state[lane], p = b->prediction ? load(b->prediction, here, 0) : zero;
            __m512i c = context(b, p, here, &k, array);
            __m512i cell = _mm512_add_epi32(_mm512_sll_epi32(c, precision), _mm512_and_si512(x, slots));
            __m512i entry = _mm512_i32gather_epi32(cell, table, 4);
            if (advance(d, &state[lane], entry, precision)) return DK_STREAM;

            __m512i high = _mm512_and_si512(entry, _mm512_set1_epi32(255)), z = get_raw(d, shift, at), shifts = base;
            if (extra) {
                shifts = _mm512_permutexvar_epi32(c, k.shifts);
                __mmask16 more = _mm512_cmpneq_epi32_mask(shifts, base);
                ptrdiff_t bytes = _mm_popcnt_u32(more);
                if (__builtin_expect(d->extras - d->extras_start < bytes, 0)) return DK_STREAM;
                d->extras -= bytes;
                __m512i next = _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)d->extras));
                next = _mm512_maskz_expand_epi32(more, next);
                z = _mm512_or_si512(z, _mm512_sll_epi32(next, _mm_cvtsi32_si128((int)shift)));
            }
            __mmask16 escaped = _mm512_cmpeq_epi32_mask(high, _mm512_set1_epi32(DK_ESCAPE));
            if (__builtin_expect(escaped != 0, 0)) {
                ptrdiff_t bytes = (ptrdiff_t)(4 * (uint32_t)_mm_popcnt_u32(escaped));
                if (d->escapes - d->escapes_start < bytes) return DK_STREAM;
                d->escapes -= bytes;
                high = _mm512_mask_expand_epi32(high, escaped, _mm512_loadu_si512(d->escapes));
            }
            z = _mm512_or_si512(z, _mm512_sllv_epi32(high, shifts));
            __m512i sign = _mm512_sub_epi32(zero, _mm512_and_si512(z, one));
            __m512i r = _mm512_xor_si512(_mm512_srli_epi32(z, 1), sign);
            __m512i value = from_image(_mm512_add_epi32(image(p, &k), r), &k);
            _mm512_storeu_si512(out + 4 * here, value);
        }
    }
    for (int v = 0; v < 4; v++) _mm512_storeu_si512(d->state + 16 * v, state[v]);
    *given = copy;
    return 0;
}

/* 16-bit words, 32 at a time: all but the states is done in lanes of 16 bits. */

INLINE __m512i image_halves(__m512i x, const constants *k)
{
    __m512i mask = _mm512_ternarylogic_epi32(_mm512_srai_epi16(x, 15), k->image_and, k->image_or_halves, 0xEA);
    return _mm512_xor_si512(x, mask);
}

INLINE __m512i from_image_halves(__m512i x, const constants *k)
{
    __m512i mask = _mm512_ternarylogic_epi32(_mm512_srai_epi16(x, 15), k->image_and, k->image_or_halves, 0xAE);
    return _mm512_xor_si512(x, mask);
}

/* Two vectors of values below 2^16 as one of halves. */
INLINE __m512i join_halves(__m512i low, __m512i high)
{
    const __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
    return _mm512_permutexvar_epi64(order, _mm512_packus_epi32(low, high));
}

INLINE __m512i low_half(__m512i x) { return _mm512_cvtepu16_epi32(_mm512_castsi512_si256(x)); }

INLINE __m512i high_half(__m512i x) { return _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(x, 1)); }

INLINE __m512i get_raw_halves(const dk_decoder *d, uint32_t shift, uint64_t i)
{
    __m512i low = _mm512_setzero_si512();
    if (shift & 8) low = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const void *)(d->byte + i)));
    if (shift & 4) {
        __m256i pairs = _mm256_cvtepu8_epi16(_mm_loadu_si128((const void *)(d->nibble + i / 2)));
        __m256i bytes = _mm256_or_si256(pairs, _mm256_slli_epi16(pairs, 4));
        __m512i nibbles = _mm512_cvtepu8_epi16(_mm256_and_si256(bytes, _mm256_set1_epi16(0x0f0f)));
        low = _mm512_or_si512(low, shift & 8 ? _mm512_slli_epi16(nibbles, 8) : nibbles);
    }
    return low;
}

/* Escapes of 32 elements into their places. Not 0 where there are too few. */
INLINE int take_escapes(dk_decoder *d, __m512i *high, uint32_t escaped)
{
    ptrdiff_t bytes = 2 * (ptrdiff_t)_mm_popcnt_u32(escaped);
    if (d->escapes - d->escapes_start < bytes) return 1;
    d->escapes -= bytes;
    const uint8_t *upper = d->escapes + 2 * _mm_popcnt_u32(escaped & 0xffff);
    __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)d->escapes));
    __m512i above = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)upper));
    *high = join_halves(_mm512_mask_expand_epi32(low_half(*high), (__mmask16)escaped, low),
                        _mm512_mask_expand_epi32(high_half(*high), (__mmask16)(escaped >> 16), above));
    return 0;
}

INLINE int decode_rows_halves(const dk_block *block, const dk_plan *plan, const uint32_t *table, dk_decoder *given,
                              uint8_t *out, uint64_t start, uint64_t rows, int array, int few)
{
    const dk_block own = *block, *b = &own;
    dk_decoder copy = *given, *d = &copy;
    const constants k = constants_of(b, plan);
    const uint32_t shift = plan->shift, extra = plan->extra;
    const __m128i precision = _mm_cvtsi32_si128((int)plan->precision), base = _mm_cvtsi32_si128((int)shift);
    const __m128i key_shift = _mm_cvtsi32_si128((int)plan->key_shift);
    const __m512i slots = _mm512_set1_epi32((1 << plan->precision) - 1), zero = _mm512_setzero_si512();
    const __m512i low = _mm512_set1_epi16((short)plan->low), last = _mm512_set1_epi16((short)(plan->contexts - 1));
    const __m512i byte = _mm512_set1_epi32(255), one = _mm512_set1_epi16(1);
    const __m512i shifts_of = join_halves(k.shifts, k.shifts), same = _mm512_set1_epi16((short)shift);
    __m512i state[4];
    for (int v = 0; v < 4; v++) state[v] = _mm512_loadu_si512(d->state + 16 * v);
    for (uint64_t i = start + rows * DK_LANES; i > start;) {
        i -= DK_LANES;
        const uint64_t from = dk_at(b, i);
        dk_prefetch_behind(b, i);
#pragma GCC unroll 2
        for (int pair = 1; pair >= 0; pair--) {
            uint64_t at = i + 32 * (uint64_t)pair, here = from + 32 * (uint64_t)pair;
            __m512i p = b->prediction ? _mm512_loadu_si512(b->prediction + 2 * here) : zero, key;
            if (array)
                key = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const void *)(b->context + here)));
            else
                key = _mm512_srl_epi16(_mm512_add_epi16(p, p), key_shift);
            __m512i c = _mm512_min_epu16(_mm512_subs_epu16(key, low), last), first = _mm512_sll_epi16(c, precision);
            __m512i *above = &state[few ? 0 : 2 * pair + 1], *below = &state[few ? 0 : 2 * pair];
            __m512i cell = _mm512_add_epi32(high_half(first), _mm512_and_si512(*above, slots));
            __m512i entry = _mm512_i32gather_epi32(cell, table, 4);
            if (advance(d, above, entry, precision)) return DK_STREAM;
            __m512i upper = _mm512_and_si512(entry, byte);
            cell = _mm512_add_epi32(low_half(first), _mm512_and_si512(*below, slots));
            entry = _mm512_i32gather_epi32(cell, table, 4);
            if (advance(d, below, entry, precision)) return DK_STREAM;
            __m512i lower = _mm512_and_si512(entry, byte), high, shifts = same, z = get_raw_halves(d, shift, at);
            if (extra) {
                shifts = _mm512_permutexvar_epi16(c, shifts_of);
                uint32_t more = _mm512_cmpneq_epi16_mask(shifts, same);
                ptrdiff_t bytes = _mm_popcnt_u32(more);
                if (__builtin_expect(d->extras - d->extras_start < bytes, 0)) return DK_STREAM;
                d->extras -= bytes;
                const uint8_t *second = d->extras + _mm_popcnt_u32(more & 0xffff);
                __m512i next = _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)d->extras));
                next = _mm512_maskz_expand_epi32((__mmask16)more, next);
                lower = _mm512_or_si512(lower, _mm512_slli_epi32(next, 8));
                next = _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)second));
                next = _mm512_maskz_expand_epi32((__mmask16)(more >> 16), next);
                upper = _mm512_or_si512(upper, _mm512_slli_epi32(next, 8));
                high = join_halves(lower, upper);
                z = _mm512_or_si512(z, _mm512_sll_epi16(_mm512_srli_epi16(high, 8), base));
                high = _mm512_and_si512(high, _mm512_set1_epi16(255));
            } else {
                high = join_halves(lower, upper);
            }
            uint32_t escaped = _mm512_cmpeq_epi16_mask(high, _mm512_set1_epi16(DK_ESCAPE));
            if (__builtin_expect(escaped != 0, 0) && take_escapes(d, &high, escaped)) return DK_STREAM;
            z = _mm512_or_si512(z, _mm512_sllv_epi16(high, shifts));
            __m512i sign = _mm512_sub_epi16(zero, _mm512_and_si512(z, one));
            __m512i r = _mm512_xor_si512(_mm512_srli_epi16(z, 1), sign);
            __m512i value = from_image_halves(_mm512_add_epi16(image_halves(p, &k), r), &k);
            _mm512_storeu_si512(out + 2 * here, value);
        }
    }
    for (int v = 0; v < 4; v++) _mm512_storeu_si512(d->state + 16 * v, state[v]);
    *given = copy;
    return 0;
}

/* With 16 states, one vector of them goes through all of a row. */
INLINE int encode_lanes(const dk_block *b, const dk_plan *plan, const dk_encode_table *table, dk_encoder *e,
                        uint64_t start, uint64_t rows, int half, int array)
{
    return plan->lanes_log2 == 6 ? encode_rows(b, plan, table, e, start, rows, half, array, 0)
                                 : encode_rows(b, plan, table, e, start, rows, half, array, 1);
}

INLINE int decode_lanes(const dk_block *b, const dk_plan *plan, const uint32_t *table, dk_decoder *d, uint8_t *out,
                        uint64_t start, uint64_t rows, int array)
{
    return plan->lanes_log2 == 6 ? decode_rows(b, plan, table, d, out, start, rows, array, 0)
                                 : decode_rows(b, plan, table, d, out, start, rows, array, 1);
}

INLINE int decode_lanes_halves(const dk_block *b, const dk_plan *plan, const uint32_t *table, dk_decoder *d,
                               uint8_t *out, uint64_t start, uint64_t rows, int array)
{
    return plan->lanes_log2 == 6 ? decode_rows_halves(b, plan, table, d, out, start, rows, array, 0)
                                 : decode_rows_halves(b, plan, table, d, out, start, rows, array, 1);
}

TARGET int dk_encode_rows_avx512(const dk_block *b, const dk_plan *plan, const dk_encode_table *table, dk_encoder *e,
                                 uint64_t start, uint64_t rows)
{
    int array = plan->key_shift == DK_CONTEXT_ARRAY;
    if (b->word == 2)
        return array ? encode_lanes(b, plan, table, e, start, rows, 1, 1) : encode_lanes(b, plan, table, e, start, rows, 1, 0);
    return array ? encode_lanes(b, plan, table, e, start, rows, 0, 1) : encode_lanes(b, plan, table, e, start, rows, 0, 0);
}

TARGET int dk_decode_rows_avx512(const dk_block *b, const dk_plan *plan, const uint32_t *table, dk_decoder *d,
                                 uint8_t *out, uint64_t start, uint64_t rows)
{
    int array = plan->key_shift == DK_CONTEXT_ARRAY;
    if (b->word == 2)
        return array ? decode_lanes_halves(b, plan, table, d, out, start, rows, 1)
                     : decode_lanes_halves(b, plan, table, d, out, start, rows, 0);
    return array ? decode_lanes(b, plan, table, d, out, start, rows, 1)
                 : decode_lanes(b, plan, table, d, out, start, rows, 0);
}

TARGET void dk_index_runs_avx512(const dk_block *b, const dk_plan *plan, const uint64_t *starts, uint32_t runs,
                                 uint16_t *index)
{
    const constants k = constants_of(b, plan);
    const int array = plan->key_shift == DK_CONTEXT_ARRAY, half = b->word == 2;
    for (uint32_t run = 0; run < runs; run++)
        for (uint64_t v = 0; v < 4; v++) {
            __m512i z, high, shifts;
            __m512i cell = cells(b, &k, starts[run] + 16 * v, half, array, &z, &high, &shifts);
            _mm256_storeu_si256((void *)index, _mm512_cvtepi32_epi16(cell));
            index += 16;
        }
}

INLINE void size_rows(const dk_block *b, const dk_survey *survey, uint32_t row_log2, int32_t *out, int half, int array)
{
    const constants k = constants_of(b, &survey->plan);
    const int alone = dk_is_alone(&survey->plan);
    const __m128i top = _mm_cvtsi32_si128((int)(8 * b->word - 10));
    const __m512i means = _mm512_loadu_si512(survey->sizes), one = _mm512_set1_epi32(1);
    for (uint64_t r = 0; r < b->count >> row_log2; r++) {
        __m512i sum = _mm512_setzero_si512();
        dk_prefetch_row(b, r, row_log2);
        for (uint64_t i = r << row_log2, end = i + DK_LANES; i < end; i += 16) {
            __m512i p = b->prediction ? load(b->prediction, i, half) : _mm512_setzero_si512(), size;
            __m512i c = context(b, p, i, &k, array), z = residual(load(b->values, i, half), image(p, &k), &k, half);
            if (alone) {
                size = _mm512_srl_epi32(z, top);
            } else {
                z = _mm512_add_epi32(_mm512_min_epu32(z, _mm512_set1_epi32(DK_SIZE_MOST)), one);
                size = _mm512_srli_epi32(_mm512_castps_si512(_mm512_cvtepi32_ps(z)), DK_SIZE_SHIFT);
                size = _mm512_sub_epi32(size, _mm512_set1_epi32(DK_SIZE_OF_ONE));
            }
            size = _mm512_sub_epi32(_mm512_slli_epi32(size, 4), _mm512_permutexvar_epi32(c, means));
            sum = _mm512_add_epi32(sum, size);
        }
        out[r] = _mm512_reduce_add_epi32(sum);
    }
}

TARGET void dk_size_rows_avx512(const dk_block *b, const dk_survey *survey, uint32_t row_log2, int32_t *out)
{
    const int array = survey->plan.key_shift == DK_CONTEXT_ARRAY;
    if (b->word == 2)
        array ? size_rows(b, survey, row_log2, out, 1, 1) : size_rows(b, survey, row_log2, out, 1, 0);
    else
        array ? size_rows(b, survey, row_log2, out, 0, 1) : size_rows(b, survey, row_log2, out, 0, 0);
}
#endif
