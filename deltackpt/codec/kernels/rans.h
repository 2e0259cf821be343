/* The residual coder "rans" (coder 2 in section 5 of docs/format.md): what its files share.
 *
 * Every variant gives the same bits. Elements go to 64 (or, in small payloads, 16, 4 or 1) interleaved states, element i to
 * state i mod lanes; the encoder goes forward, the decoder backward, so that all streams are appended to.
 * No file includes anything but freestanding headers, string.h and math.h.
 */
#ifndef DELTACKPT_RANS_H
#define DELTACKPT_RANS_H

#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "words are read as they lie in memory, which is little-endian"
#endif

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(_WIN32)
#define DK_PUBLIC __declspec(dllexport)
#else
#define DK_PUBLIC __attribute__((visibility("default")))
#endif

#define DK_CONTEXTS 16
#define DK_SYMBOLS 256
#define DK_ESCAPE 255
#define DK_LANES 64
#define DK_STATE_BITS 15 /* states lie in [2^15, 2^31) between elements */
#define DK_STATE_LOW (1u << DK_STATE_BITS)
#define DK_MIN_PRECISION 9
#define DK_MAX_PRECISION 12
#define DK_HEADER 26
#define DK_COMPACT_HEAD 29 /* at most */
#define DK_COMPACT_TABLES 20480 /* at most; no block that is surveyed rightly comes near */
#define DK_KEYS 2048
#define DK_PLAN_SAMPLES 8192
#define DK_LEAST_PLAN_SAMPLES 2048 /* of some rows */
#define DK_CONTEXT_ARRAY 255 /* as key shift: the context array is the key */

/* Results below zero; the Python side has a sentence for each. */
enum {
    DK_TOO_LARGE = -1, /* encoding: not smaller than the block's bytes */
    DK_TRUNCATED = -2, /* decoding: the payload ends early */
    DK_TRAILING = -3,  /* bytes are left over */
    DK_HEADER_FIELD = -4,
    DK_TABLE = -5,
    DK_STREAM = -6, /* a stream does not hold what the symbols ask for */
    DK_STATE = -7   /* the states do not end where the encoder began */
};

/* Methods of a payload. */
enum { DK_CONSTANT = 0, DK_CODED = 1, DK_COMPACT = 2 };

enum { DK_SCALAR = 0, DK_AVX2 = 1, DK_AVX512 = 2 };

/* A block and what is known of it beforehand. */
typedef struct {
    const uint8_t *values;     /* count words; NULL when decoding */
    const uint8_t *prediction; /* count words, or NULL for all bits zero */
    const uint8_t *context;    /* count bytes, or NULL */
    uint64_t count;
    uint32_t word;      /* bytes: 2 or 4 */
    uint32_t is_float;  /* image of floats or of integers */
    uint32_t key_shift; /* bits below a prediction's exponent, plus 1 for the sign that is shifted out */
    /* NULL for all of it, or the numbers of the rows of 2^row_log2 >= 64 words that are meant. Then the arrays are of the
     * whole block, and count is of the words of these rows, of which the last may be cut short. */
    const uint32_t *rows;
    uint32_t row_log2;
    uint64_t whole; /* words of the block, with rows */
} dk_block;

/* How a block is coded: the header of the payload. */
typedef struct {
    uint32_t shift;      /* bits below the symbol that are kept raw; a multiple of 4 */
    uint32_t precision;  /* frequencies of a context sum to 1 << precision */
    uint32_t lanes_log2; /* 6, 4, 2 or 0 */
    uint32_t key_shift;
    uint32_t contexts;
    uint32_t low;   /* the key of context 0 */
    uint32_t extra; /* bit c: context c keeps one more raw byte */
    uint32_t table_bytes, words, extras, escapes;
    uint32_t method;
} dk_plan;

/* What a sample tells of a block and one prediction. Costs are of the sample, in 1/65536 bits. */
typedef struct {
    uint64_t cost;  /* coded by this plan */
    uint32_t taken; /* elements of the sample */
    uint32_t spread; /* 1024 times: how runs of 64 elements differ in size, of how elements do (rows.c) */
    uint32_t sizes[DK_CONTEXTS]; /* mean sizes of residuals, in sixteenths of a quarter of an octave */
    dk_plan plan;
} dk_survey;

typedef struct {
    uint64_t planes;  /* cost of byte planes, by how often each byte occurs */
    uint32_t taken;   /* elements of the sample */
    uint32_t repeats; /* windows of 8 bytes in the middle of the residual that occurred there before */
} dk_structure;

/* info: frequency in bits 0-11, bias 12-24, reciprocal shift 25-28, escape 31. */
typedef struct {
    uint32_t reciprocal[DK_CONTEXTS * DK_SYMBOLS];
    uint32_t info[DK_CONTEXTS * DK_SYMBOLS];
} dk_encode_table;

/* The encoder's position in its streams. */
typedef struct {
    uint8_t *wide, *byte, *nibble; /* raw bits: 2 bytes, 1 byte, half a byte an element, where the shift has them */
    uint8_t *words, *words_end;
    uint8_t *extras, *escapes;
    uint32_t state[DK_LANES];
} dk_encoder;

/* The decoder's: each stream is read from its end down to its start. */
typedef struct {
    const uint8_t *wide, *byte, *nibble;
    const uint8_t *words, *words_start;
    const uint8_t *extras, *extras_start;
    const uint8_t *escapes, *escapes_start;
    uint32_t state[DK_LANES];
} dk_decoder;

typedef uint16_t dk_frequencies[DK_CONTEXTS][DK_SYMBOLS];

#define DK_CELLS (DK_CONTEXTS * DK_SYMBOLS)
#define DK_TURNS 4             /* counters for each symbol, as the same one often follows itself */
#define DK_BINS (4 * 32 + 1)   /* residuals by length and the two bits after the leading one */
#define DK_WINDOWS 2048        /* consecutive residuals that are searched for repeats */
#define DK_WINDOW_SLOTS 4096   /* a power of two, so that half of the slots stay free */

typedef struct {
    uint32_t z[DK_PLAN_SAMPLES];
    uint16_t key[DK_PLAN_SAMPLES];
    uint64_t slots[DK_WINDOW_SLOTS];
    uint32_t keys[DK_KEYS];
    uint32_t bins[DK_CONTEXTS][DK_BINS];
    uint32_t tops[DK_CONTEXTS][DK_SYMBOLS];
    uint32_t totals[DK_CONTEXTS];
    uint32_t sizes[DK_CONTEXTS];
    uint32_t bytes[4][DK_SYMBOLS];
    uint8_t used[DK_WINDOW_SLOTS];
} dk_survey_scratch;

/* What the functions below need besides their output. The caller keeps it from block to block: memory that is taken
 * from the system and given back for every block costs more than its use. */
typedef struct {
    union {
        dk_survey_scratch survey;
        struct {
            dk_encode_table table;
            uint32_t counts[DK_CELLS];
            uint32_t turns[DK_TURNS * DK_CELLS];
        } encode;
        uint32_t decode_table[DK_CONTEXTS << DK_MAX_PRECISION];
    } u;
    dk_frequencies frequencies;
    uint8_t side_streams[]; /* encoding: extra bytes, then escapes */
} dk_scratch;

/* One variant: elements [start, start + rows * 64) of a block; results are 0 or negative. */
typedef int (*dk_encode_rows)(const dk_block *, const dk_plan *, const dk_encode_table *, dk_encoder *, uint64_t start,
                              uint64_t rows);
typedef int (*dk_decode_rows)(const dk_block *, const dk_plan *, const uint32_t *table, dk_decoder *, uint8_t *out,
                              uint64_t start, uint64_t rows);
/* context << 8 | symbol of each of 64 elements from every one of starts on. */
typedef void (*dk_index_runs)(const dk_block *, const dk_plan *, const uint64_t *starts, uint32_t runs, uint16_t *index);
/* Sizes of whole rows of a block, as dk_sort_rows takes them. */
typedef void (*dk_size_rows)(const dk_block *, const dk_survey *, uint32_t row_log2, int32_t *out);

int dk_encode_rows_scalar(const dk_block *, const dk_plan *, const dk_encode_table *, dk_encoder *, uint64_t, uint64_t);
int dk_decode_rows_scalar(const dk_block *, const dk_plan *, const uint32_t *, dk_decoder *, uint8_t *, uint64_t, uint64_t);
void dk_index_runs_scalar(const dk_block *, const dk_plan *, const uint64_t *, uint32_t, uint16_t *);
void dk_size_rows_scalar(const dk_block *, const dk_survey *, uint32_t, int32_t *);
/* Any number of elements and lanes. */
int dk_encode_some(const dk_block *, const dk_plan *, const dk_encode_table *, dk_encoder *, uint64_t start, uint64_t count);
int dk_decode_some(const dk_block *, const dk_plan *, const uint32_t *table, dk_decoder *, uint8_t *out, uint64_t start,
                   uint64_t count);

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define DK_X86 1
int dk_encode_rows_avx2(const dk_block *, const dk_plan *, const dk_encode_table *, dk_encoder *, uint64_t, uint64_t);
int dk_decode_rows_avx2(const dk_block *, const dk_plan *, const uint32_t *, dk_decoder *, uint8_t *, uint64_t, uint64_t);
void dk_index_runs_avx2(const dk_block *, const dk_plan *, const uint64_t *, uint32_t, uint16_t *);
void dk_size_rows_avx2(const dk_block *, const dk_survey *, uint32_t, int32_t *);
int dk_encode_rows_avx512(const dk_block *, const dk_plan *, const dk_encode_table *, dk_encoder *, uint64_t, uint64_t);
int dk_decode_rows_avx512(const dk_block *, const dk_plan *, const uint32_t *, dk_decoder *, uint8_t *, uint64_t, uint64_t);
void dk_index_runs_avx512(const dk_block *, const dk_plan *, const uint64_t *, uint32_t, uint16_t *);
void dk_size_rows_avx512(const dk_block *, const dk_survey *, uint32_t, int32_t *);
#endif

/* survey.c */
void dk_take_survey(const dk_block *, dk_survey *, dk_survey_scratch *);
void dk_take_structure(const dk_block *, dk_structure *, dk_survey_scratch *);
/* tables.c */
void dk_normalize(const uint32_t counts[DK_SYMBOLS], int sampled, uint32_t precision, uint16_t frequencies[DK_SYMBOLS]);
size_t dk_put_tables(dk_frequencies frequencies, const dk_plan *, uint8_t *out);
int dk_get_tables(const uint8_t *in, size_t length, const dk_plan *, dk_frequencies frequencies);
void dk_fill_encode_table(dk_frequencies frequencies, const dk_plan *, dk_encode_table *);
void dk_fill_decode_table(dk_frequencies frequencies, const dk_plan *, uint32_t *table);
/* compact.c. The first takes counts, and fills in the frequencies that a decoder will have. 0 where they are too long. */
size_t dk_put_compact_tables(const uint32_t *counts, int sampled, const dk_plan *, uint8_t *out,
                             dk_frequencies frequencies);
int dk_get_compact_tables(const uint8_t *in, size_t length, const dk_plan *, dk_frequencies frequencies);
size_t dk_put_compact_head(uint8_t *out, const dk_plan *);
int dk_get_compact_head(const uint8_t *in, uint64_t length, dk_plan *, uint64_t *head);
/* rows.c: sizes of residuals, see there */
uint32_t dk_spread_of(const uint32_t *sizes, const uint16_t *contexts, uint32_t taken, const uint32_t means[DK_CONTEXTS]);
void dk_classes_of(const int32_t *sizes, uint64_t rows, uint32_t class_bits, uint8_t *classes);
/* counts.c: symbols of a sample, by context */
void dk_count(const dk_block *, const dk_plan *, dk_index_runs, uint64_t samples, uint32_t turns[DK_TURNS * DK_CELLS],
              uint32_t counts[DK_CELLS]);

#define DK_TABLE_BOUND (DK_CONTEXTS * (1 + DK_SYMBOLS * 5))

/* Words are widened to 32 bits with their bits at the top, so that signs and carries are the same for both sizes. */
static inline uint32_t dk_load(const uint8_t *words, uint64_t i, uint32_t word)
{
    if (word == 2) {
        uint16_t half;
        memcpy(&half, words + 2 * i, 2);
        return (uint32_t)half << 16;
    }
    uint32_t whole;
    memcpy(&whole, words + 4 * i, 4);
    return whole;
}

/* Where in the block's arrays element i is. From a multiple of 64 on, 64 elements lie one after another. */
static inline uint64_t dk_at(const dk_block *b, uint64_t i)
{
    if (!b->rows) return i;
    return ((uint64_t)b->rows[i >> b->row_log2] << b->row_log2) + (i & (((uint64_t)1 << b->row_log2) - 1));
}

#if defined(__GNUC__)
#define DK_PREFETCH(address) __builtin_prefetch(address)
#else
#define DK_PREFETCH(address) ((void)(address))
#endif
#define DK_CACHE_LINE 64

/* Ask for 64 elements of the block's arrays that are looked at soon. */
static inline void dk_prefetch(const dk_block *b, uint64_t at)
{
    const uint64_t first = at * b->word, bytes = DK_LANES * b->word;
    for (uint64_t k = 0; k < bytes; k += DK_CACHE_LINE) {
        if (b->values) DK_PREFETCH(b->values + first + k);
        if (b->prediction) DK_PREFETCH(b->prediction + first + k);
    }
}

/* Rows that are not in order are not what processors expect: ask for what comes DK_AHEAD elements later. */
#define DK_AHEAD 256
static inline void dk_prefetch_ahead(const dk_block *b, uint64_t i)
{
    if (b->rows && i + DK_AHEAD + DK_LANES <= b->count) dk_prefetch(b, dk_at(b, i + DK_AHEAD));
}
static inline void dk_prefetch_behind(const dk_block *b, uint64_t i)
{
    if (b->rows && i >= DK_AHEAD) dk_prefetch(b, dk_at(b, i - DK_AHEAD));
}

/* The same where the first 64 elements of every row are looked at. */
#define DK_ROWS_AHEAD 8
static inline void dk_prefetch_row(const dk_block *b, uint64_t row, uint32_t row_log2)
{
    const uint64_t start = (row + DK_ROWS_AHEAD) << row_log2;
    if (start + DK_LANES <= b->count) dk_prefetch(b, start);
}

static inline uint32_t dk_sign(uint32_t x) { return (uint32_t)0 - (x >> 31); }

static inline uint32_t dk_image(uint32_t x, uint32_t is_float)
{
    return is_float ? x ^ (dk_sign(x) | 0x80000000u) : x;
}

static inline uint32_t dk_prediction(const dk_block *b, uint64_t i)
{
    return b->prediction ? dk_load(b->prediction, i, b->word) : 0;
}

/* The residual, its word's bits at the bottom. */
static inline uint32_t dk_residual(uint32_t value, uint32_t prediction, const dk_block *b)
{
    uint32_t v = dk_image(value, b->is_float), p = dk_image(prediction, b->is_float);
    if (b->word == 2) {
        uint32_t r = (v >> 16) - (p >> 16);
        return (uint16_t)((r << 1) ^ dk_sign(r << 16));
    }
    uint32_t r = v - p;
    return (r << 1) ^ dk_sign(r);
}

static inline uint32_t dk_key(const dk_block *b, uint64_t i, uint32_t prediction, uint32_t key_shift)
{
    if (key_shift == DK_CONTEXT_ARRAY) return b->context[i];
    return (prediction << 1) >> (key_shift + 32 - 8 * b->word);
}

static inline uint32_t dk_clamp(uint32_t key, uint32_t low, uint32_t contexts)
{
    uint32_t above = key > low ? key - low : 0;
    return above < contexts ? above : contexts - 1;
}

/* Whether the words themselves are coded, so that the top bits of z are their exponents. */
static inline int dk_is_alone(const dk_plan *plan)
{
    return plan->key_shift == DK_CONTEXT_ARRAY || (plan->contexts == 1 && plan->low == 0);
}

/* How large a residual is, in quarters of an octave: of z + 1, by the bits of a float that is rounded to the nearest; or,
 * where the words themselves are coded, of what these count. */
#define DK_SIZE_MOST 0x7ffffffeu
#define DK_SIZE_SHIFT 21
#define DK_SIZE_OF_ONE (127u << 2)
static inline uint32_t dk_size(uint32_t z, int alone, uint32_t bits)
{
    if (alone) return z >> (bits - 10);
    float above = (float)(int32_t)((z < DK_SIZE_MOST ? z : DK_SIZE_MOST) + 1);
    uint32_t size;
    memcpy(&size, &above, 4);
    return (size >> DK_SIZE_SHIFT) - DK_SIZE_OF_ONE;
}

/* The mean in sixteenths of a quarter, to the nearest. */
static inline uint32_t dk_mean_size(uint64_t sum, uint32_t count)
{
    return count ? (uint32_t)((16 * sum + count / 2) / count) : 0;
}

/* The runs of a sample: all of the block, or count / 64 runs of 64 elements, evenly spread. */
typedef struct {
    uint64_t runs, rows, length;
} dk_runs;

static inline dk_runs dk_sample_runs(uint64_t count, uint64_t samples)
{
    dk_runs runs = {1, 1, count};
    if (count > samples) {
        runs.runs = samples / DK_LANES;
        runs.rows = count / DK_LANES;
        runs.length = DK_LANES;
    }
    return runs;
}

/* Of so many samples of a block, those that fall on its rows; at least some. */
static inline uint64_t dk_share(const dk_block *b, uint64_t samples, uint64_t least)
{
    if (!b->rows) return samples;
    uint64_t share = samples * b->count / b->whole;
    return share > least ? share : least;
}

static inline uint64_t dk_run_start(const dk_runs *runs, uint64_t number)
{
    return number * runs->rows / runs->runs * DK_LANES;
}

#endif
