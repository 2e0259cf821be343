/* Predictions that are computed: section 5 of docs/format.md, predictors 2 to 4, and the sums behind their fits.
 *
 * Every operation is rounded once, in the order written: compiled without contraction, and run with the floating-point
 * environment that IEEE 754 starts with, whatever the calling thread has set. Loops over a few dozen elements in local
 * arrays, so that a compiler makes vectors of them and inputs need no alignment.
 */
#include "rans.h"

#include <math.h>

#if DK_X86
#include <immintrin.h>
#endif

#if defined(__GNUC__)
#define FORCE_INLINE static inline __attribute__((always_inline))
#define NO_INLINE __attribute__((noinline))
#else
#define FORCE_INLINE static inline
#define NO_INLINE
#endif

/* Elements at a time, and lanes of a sum. Sums are the same for every number of lanes that a vector has. */
#define CHUNK 64
#define SUM_LANES 32
#define MOST_COLUMNS 8

#if DK_X86
static uint32_t set_environment(uint32_t wanted)
{
    uint32_t before;
    __asm__ volatile("stmxcsr %0" : "=m"(before) : : "memory");
    __asm__ volatile("ldmxcsr %0" : : "m"(wanted) : "memory");
    return before;
}
#define IEEE_ENVIRONMENT 0x1f80u /* round to nearest, denormals kept, nothing trapped */
#elif defined(__aarch64__) && defined(__GNUC__)
static uint64_t set_environment(uint64_t wanted)
{
    uint64_t before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before) : : "memory");
    __asm__ volatile("msr fpcr, %0" : : "r"(wanted) : "memory");
    return before;
}
#define IEEE_ENVIRONMENT 0u
#else
/* Left to the caller. */
static uint64_t set_environment(uint64_t wanted) { return wanted; }
#define IEEE_ENVIRONMENT 0u
#endif

/* The arguments of one prediction: count words of 4 bytes each. */
typedef struct {
    const uint8_t *base, *first, *second;
    uint8_t *out;
    uint64_t count;
    double a, b, c;
    float factor; /* c, rounded in the right environment */
} dk_step;

FORCE_INLINE void adam_weight_chunk(const dk_step *s, uint64_t start, size_t n)
{
    float base[CHUNK], m[CHUNK], v[CHUNK], out[CHUNK];
    memset(base, 0, sizeof base), memset(m, 0, sizeof m), memset(v, 0, sizeof v);
    memcpy(base, s->base + 4 * start, 4 * n);
    memcpy(m, s->first + 4 * start, 4 * n);
    memcpy(v, s->second + 4 * start, 4 * n);
    for (int i = 0; i < CHUNK; i++) {
        double root = sqrt((double)v[i]) + s->b;
        double update = (double)m[i] / root * s->a;
        float kept = base[i] * s->factor, moved = kept + (float)update;
        out[i] = moved == moved ? moved : base[i];
    }
    memcpy(s->out + 4 * start, out, 4 * n);
}

FORCE_INLINE void adam_second_chunk(const dk_step *s, uint64_t start, size_t n)
{
    const double rest1 = 1.0 - s->a, rest2 = 1.0 - s->b;
    float base[CHUNK], m[CHUNK], before[CHUNK], out[CHUNK];
    memset(base, 0, sizeof base), memset(m, 0, sizeof m), memset(before, 0, sizeof before);
    memcpy(base, s->base + 4 * start, 4 * n);
    memcpy(m, s->first + 4 * start, 4 * n);
    memcpy(before, s->second + 4 * start, 4 * n);
    for (int i = 0; i < CHUNK; i++) {
        double gradient = ((double)m[i] - (double)before[i] * s->a) / rest1;
        double square = gradient * gradient * rest2;
        float kept = base[i] * s->factor, moved = (float)(square + (double)kept);
        out[i] = moved == moved ? moved : base[i];
    }
    memcpy(s->out + 4 * start, out, 4 * n);
}

#if DK_X86
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq")))
#define DOUBLES 8

/* The same results with less work: square roots and divisions take most of the time, and all that is kept of them is a
 * float32. So they are approximated, and a chunk counts where all that the exact result may be, within the bound of
 * the error, rounds to the same float32 (Ziv, "Fast evaluation of elementary mathematical functions with correctly
 * rounded last bit", ACM TOMS 17, 1991). Where it does not (one number in some 2^13; NaN, negative and zero second
 * moments; settings for which a double could under- or overflow) the formulas are computed as they are written.
 * Measured: 0.7 instead of 1.5 ns for a weight, 0.6 instead of 1.1 ns for a second moment. */
static int between(double x, double low, double high) { return x >= low && x <= high; }

static int weight_is_tame(const dk_step *s)
{
    return between(s->b, 0, 1) && (s->a == 0 || between(fabs(s->a), 0x1p-200, 0x1p200));
}

static int second_is_tame(const dk_step *s)
{
    return (s->a == 0 || between(fabs(s->a), 0x1p-100, 0x1p10)) && between(1.0 - s->a, 0x1p-60, 0x1p10) &&
           between(1.0 - s->b, 0x1p-60, 0x1p10);
}

/* Whether both ends of an interval round to one float32, which is put in rounded. A NaN is none. */
AVX512 FORCE_INLINE int rounds_alike(__m512d low, __m512d high, __m256 *rounded)
{
    *rounded = _mm512_cvtpd_ps(low);
    return _mm256_cmp_ps_mask(*rounded, _mm512_cvtpd_ps(high), _CMP_EQ_OQ) == 0xff;
}

/* f32(rate * (m / (sqrt(v) + epsilon))). With an estimate y of 1 / sqrt(v) that is off by a share of 2^-14, and
 * e = 1 - v y^2, sqrt(v) = v y (1 - e)^(-1/2); of its series three terms are taken, which leaves less than 2^-40. The
 * reciprocal likewise: 1 / (1 - f) = 1 + f + f^2 + ..., less than 2^-41. */
AVX512 FORCE_INLINE int update_of(const dk_step *s, uint64_t at, __m256 *update)
{
    const __m512d one = _mm512_set1_pd(1);
    const __m512d v = _mm512_cvtps_pd(_mm256_loadu_ps((const float *)(const void *)(s->second + 4 * at)));
    const __m512d m = _mm512_cvtps_pd(_mm256_loadu_ps((const float *)(const void *)(s->first + 4 * at)));
    const __m512d y = _mm512_rsqrt14_pd(v), t = _mm512_mul_pd(v, y), e = _mm512_fnmadd_pd(t, y, one);
    const __m512d series = _mm512_fmadd_pd(e, _mm512_set1_pd(0.375), _mm512_set1_pd(0.5));
    const __m512d root = _mm512_add_pd(_mm512_fmadd_pd(_mm512_mul_pd(t, e), series, t), _mm512_set1_pd(s->b));
    const __m512d z = _mm512_rcp14_pd(root), f = _mm512_fnmadd_pd(root, z, one);
    const __m512d inverse = _mm512_fmadd_pd(z, _mm512_fmadd_pd(f, f, f), z);
    const __m512d found = _mm512_mul_pd(_mm512_mul_pd(m, inverse), _mm512_set1_pd(s->a));
    return rounds_alike(_mm512_mul_pd(found, _mm512_set1_pd(1 - 0x1p-38)),
                        _mm512_mul_pd(found, _mm512_set1_pd(1 + 0x1p-38)), update);
}

AVX512 FORCE_INLINE int adam_weight_quick(const dk_step *s, uint64_t start)
{
    __m512 out[CHUNK / 16];
    int sure = 1;
    for (int i = 0; i < CHUNK / 16; i++) {
        const uint64_t at = start + 16 * (uint64_t)i;
        __m256 low, high;
        sure &= update_of(s, at, &low) & update_of(s, at + DOUBLES, &high);
        const __m512 base = _mm512_loadu_ps(s->base + 4 * at);
        const __m512 kept = _mm512_mul_ps(base, _mm512_set1_ps(s->factor));
        const __m512 moved = _mm512_add_ps(kept, _mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1));
        out[i] = _mm512_mask_mov_ps(base, _mm512_cmp_ps_mask(moved, moved, _CMP_EQ_OQ), moved);
    }
    if (!sure) return 0;
    for (int i = 0; i < CHUNK / 16; i++) _mm512_storeu_ps(s->out + 4 * (start + 16 * (uint64_t)i), out[i]);
    return 1;
}

/* The square of the gradient, times a constant, is off by less than a share of 2^-49. */
AVX512 FORCE_INLINE int adam_second_quick(const dk_step *s, uint64_t start)
{
    const double rest1 = 1.0 - s->a, rest2 = 1.0 - s->b;
    const __m512d scale = _mm512_set1_pd(rest2 / (rest1 * rest1)), beta1 = _mm512_set1_pd(s->a);
    const __m512d less = _mm512_set1_pd(1 - 0x1p-45), more = _mm512_set1_pd(1 + 0x1p-45);
    __m256 out[CHUNK / DOUBLES];
    int sure = 1;
    for (int i = 0; i < CHUNK / DOUBLES; i++) {
        const uint64_t at = 4 * (start + DOUBLES * (uint64_t)i);
        const __m512d m = _mm512_cvtps_pd(_mm256_loadu_ps((const float *)(const void *)(s->first + at)));
        const __m512d before = _mm512_cvtps_pd(_mm256_loadu_ps((const float *)(const void *)(s->second + at)));
        const __m256 base = _mm256_loadu_ps((const float *)(const void *)(s->base + at));
        const __m512d kept = _mm512_cvtps_pd(_mm256_mul_ps(base, _mm256_set1_ps(s->factor)));
        const __m512d t = _mm512_sub_pd(m, _mm512_mul_pd(before, beta1));
        const __m512d square = _mm512_mul_pd(_mm512_mul_pd(t, t), scale);
        sure &= rounds_alike(_mm512_fmadd_pd(square, less, kept), _mm512_fmadd_pd(square, more, kept), &out[i]);
    }
    if (!sure) return 0;
    for (int i = 0; i < CHUNK / DOUBLES; i++)
        _mm256_storeu_ps((float *)(void *)(s->out + 4 * (start + DOUBLES * (uint64_t)i)), out[i]);
    return 1;
}
#endif

/* Variants without a quick way. */
#define NEVER(s) 0
#define NOT_QUICK(s, start) 0

/* The sums of the products of all pairs of columns, in lanes that take every 32nd product and keep what additions
 * round away (Knuth, TAOCP 4.2.2, theorem B): as good as exact, and the same wherever it is done in this order. */
typedef struct {
    const double *columns[MOST_COLUMNS];
    uint32_t count;
    uint64_t length;
    double *sums; /* count * count */
} dk_products;

FORCE_INLINE void add_exactly(double *sum, double *lost, double x)
{
    double before = *sum, after = before + x, part = after - before;
    *lost += (before - (after - part)) + (x - part);
    *sum = after;
}

FORCE_INLINE double sum_products(const double *a, const double *b, uint64_t length)
{
    double sum[SUM_LANES] = {0}, lost[SUM_LANES] = {0};
    uint64_t i = 0;
    for (; i + SUM_LANES <= length; i += SUM_LANES)
        for (int k = 0; k < SUM_LANES; k++) add_exactly(&sum[k], &lost[k], a[i + (uint64_t)k] * b[i + (uint64_t)k]);
    for (int k = 0; i < length; i++, k++) add_exactly(&sum[k], &lost[k], a[i] * b[i]);
    for (int half = SUM_LANES / 2; half; half /= 2)
        for (int k = 0; k < half; k++) {
            lost[k] += lost[k + half];
            add_exactly(&sum[k], &lost[k], sum[k + half]);
        }
    return sum[0] + lost[0];
}

/* Float32 words rounded to 16 bits, to nearest, ties to even, in whole numbers. */

FORCE_INLINE uint32_t to_bfloat16(uint32_t x)
{
    uint32_t rounded = (x + 0x7fffu + (x >> 16 & 1)) >> 16;
    return (x & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded;
}

FORCE_INLINE uint32_t to_float16(uint32_t x)
{
    const uint32_t sign = x >> 16 & 0x8000u, magnitude = x & 0x7fffffffu;
    /* From 2^-14 up numbers are normal, and a carry goes up to infinity; from 2^16 on there is nothing else. Below, the
     * mantissa is shifted; from 2^-25, half of the smallest, down nothing is left of it. All without branches. */
    const uint32_t exponent = magnitude >> 23, mantissa = (magnitude & 0x7fffffu) | 0x800000u;
    const uint32_t shift = exponent < 102 ? 24 : exponent > 112 ? 14 : 126 - exponent;
    const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1)) >> 13;
    const uint32_t denormal = (mantissa + (1u << (shift - 1)) - 1 + (mantissa >> shift & 1)) >> shift;
    uint32_t half = magnitude >= 0x38800000u ? normal : magnitude > 0x33000000u ? denormal : 0;
    half = magnitude >= 0x47800000u ? 0x7c00u : half;
    if (magnitude > 0x7f800000u) return 0x7e00u;
    return sign | half;
}

FORCE_INLINE void cast_all(const uint8_t *words, uint8_t *out, uint64_t count, int is_bfloat16)
{
    for (uint64_t i = 0; i < count; i += CHUNK) {
        const size_t n = count - i < CHUNK ? count - i : CHUNK;
        uint32_t in[CHUNK] = {0};
        uint16_t halves[CHUNK];
        memcpy(in, words + 4 * i, 4 * n);
        if (is_bfloat16)
            for (int k = 0; k < CHUNK; k++) halves[k] = (uint16_t)to_bfloat16(in[k]);
        else
            for (int k = 0; k < CHUNK; k++) halves[k] = (uint16_t)to_float16(in[k]);
        memcpy(out + 2 * i, halves, 2 * n);
    }
}

/* Half the biased exponent of a word, rounded up: that of its root. */
FORCE_INLINE void root_exponents(const uint8_t *words, uint8_t *out, uint64_t count, int is_bfloat16)
{
    for (uint64_t i = 0; i < count; i += CHUNK) {
        const size_t n = count - i < CHUNK ? count - i : CHUNK;
        uint8_t halves[CHUNK];
        if (is_bfloat16) {
            uint16_t in[CHUNK] = {0};
            memcpy(in, words + 2 * i, 2 * n);
            for (int k = 0; k < CHUNK; k++) halves[k] = (uint8_t)(((in[k] >> 7 & 255) + 1) >> 1);
        } else {
            uint32_t in[CHUNK] = {0};
            memcpy(in, words + 4 * i, 4 * n);
            for (int k = 0; k < CHUNK; k++) halves[k] = (uint8_t)(((in[k] >> 23 & 255) + 1) >> 1);
        }
        memcpy(out + i, halves, n);
    }
}

/* One function a job and target. They are not inlined, so that nothing of them moves out of their environment. */
#define VARIANT(name, target, weight_tame, weight_quick, second_tame, second_quick)                                    \
    target static NO_INLINE void adam_weight_##name(const dk_step *s)                                                  \
    {                                                                                                                  \
        dk_step own = *s;                                                                                              \
        own.factor = (float)own.c;                                                                                     \
        uint64_t i = 0;                                                                                                \
        const int tame = weight_tame(&own);                                                                            \
        for (; i + CHUNK <= own.count; i += CHUNK)                                                                     \
            if (!tame || !weight_quick(&own, i)) adam_weight_chunk(&own, i, CHUNK);                                    \
        adam_weight_chunk(&own, i, own.count - i);                                                                     \
    }                                                                                                                  \
    target static NO_INLINE void adam_second_##name(const dk_step *s)                                                  \
    {                                                                                                                  \
        dk_step own = *s;                                                                                              \
        own.factor = (float)own.c;                                                                                     \
        uint64_t i = 0;                                                                                                \
        const int tame = second_tame(&own);                                                                            \
        for (; i + CHUNK <= own.count; i += CHUNK)                                                                     \
            if (!tame || !second_quick(&own, i)) adam_second_chunk(&own, i, CHUNK);                                    \
        adam_second_chunk(&own, i, own.count - i);                                                                     \
    }                                                                                                                  \
    target static void cast_##name(const uint8_t *words, uint8_t *out, uint64_t count, int is_bfloat16)                \
    {                                                                                                                  \
        cast_all(words, out, count, is_bfloat16);                                                                      \
    }                                                                                                                  \
    target static void root_exponents_##name(const uint8_t *words, uint8_t *out, uint64_t count, int is_bfloat16)      \
    {                                                                                                                  \
        root_exponents(words, out, count, is_bfloat16);                                                                \
    }                                                                                                                  \
    target static NO_INLINE void products_##name(const dk_products *p)                                                 \
    {                                                                                                                  \
        for (uint32_t i = 0; i < p->count; i++)                                                                        \
            for (uint32_t j = i; j < p->count; j++)                                                                    \
                p->sums[i * p->count + j] = p->sums[j * p->count + i] =                                                \
                    sum_products(p->columns[i], p->columns[j], p->length);                                             \
    }

VARIANT(scalar, , NEVER, NOT_QUICK, NEVER, NOT_QUICK)
#if DK_X86
VARIANT(avx2, __attribute__((target("avx2"))), NEVER, NOT_QUICK, NEVER, NOT_QUICK)
VARIANT(avx512, AVX512, weight_is_tame, adam_weight_quick, second_is_tame, adam_second_quick)
#define CHOOSE(job, variant) ((variant) == DK_AVX512 ? job##_avx512 : (variant) == DK_AVX2 ? job##_avx2 : job##_scalar)
#else
#define CHOOSE(job, variant) ((void)(variant), job##_scalar)
#endif

/* Predictor 3. out may be base. */
DK_PUBLIC void dk_adam_weight(int variant, const uint8_t *base, const uint8_t *first, const uint8_t *second,
                              uint8_t *out, uint64_t count, double rate, double epsilon, double decay)
{
    const dk_step step = {base, first, second, out, count, rate, epsilon, decay, 0};
    void (*run)(const dk_step *) = CHOOSE(adam_weight, variant);
    const uint64_t before = set_environment(IEEE_ENVIRONMENT);
    run(&step);
    (void)set_environment((uint32_t)before);
}

/* Predictor 4: second is the first moment before. */
DK_PUBLIC void dk_adam_second(int variant, const uint8_t *base, const uint8_t *first, const uint8_t *second,
                              uint8_t *out, uint64_t count, double beta1, double beta2)
{
    const dk_step step = {base, first, second, out, count, beta1, beta2, beta2, 0};
    void (*run)(const dk_step *) = CHOOSE(adam_second, variant);
    const uint64_t before = set_environment(IEEE_ENVIRONMENT);
    run(&step);
    (void)set_environment((uint32_t)before);
}

/* Sums of the products of each two of count columns, at most 8, of length numbers each. */
DK_PUBLIC void dk_products_of(int variant, const double *columns, uint32_t count, uint64_t length, double *sums)
{
    dk_products p = {{0}, count, length, sums};
    for (uint32_t k = 0; k < count; k++) p.columns[k] = columns + k * length;
    void (*run)(const dk_products *) = CHOOSE(products, variant);
    const uint64_t before = set_environment(IEEE_ENVIRONMENT);
    run(&p);
    (void)set_environment((uint32_t)before);
}

/* Predictor 2: 16-bit words of float32 ones. */
DK_PUBLIC void dk_cast(int variant, const uint8_t *words, uint8_t *out, uint64_t count, int is_bfloat16)
{
    CHOOSE(cast, variant)(words, out, count, is_bfloat16);
}

/* Predictor 5: contexts of words of float32 or bfloat16. */
DK_PUBLIC void dk_root_exponents(int variant, const uint8_t *words, uint8_t *out, uint64_t count, int is_bfloat16)
{
    CHOOSE(root_exponents, variant)(words, out, count, is_bfloat16);
}
