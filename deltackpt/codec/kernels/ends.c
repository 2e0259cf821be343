/* One element after another: ends of blocks, and blocks of few lanes, in all variants. */
#include "rans.h"

/* Where the raw bits of element i go: the lowest 16 to wide, the next 8 to byte, the next 4 to nibble, each if there. */
static void put_raw(dk_encoder *e, uint32_t shift, uint64_t i, uint32_t z)
{
    if (shift & 16) {
        uint16_t low = (uint16_t)z;
        memcpy(e->wide + 2 * i, &low, 2);
        z >>= 16;
    }
    if (shift & 8) {
        e->byte[i] = (uint8_t)z;
        z >>= 8;
    }
    if (shift & 4) {
        if (i & 1)
            e->nibble[i / 2] |= (uint8_t)((z & 15) << 4);
        else
            e->nibble[i / 2] = (uint8_t)(z & 15);
    }
}

static uint32_t get_raw(const dk_decoder *d, uint32_t shift, uint64_t i)
{
    uint32_t low = 0, at = 0;
    if (shift & 16) {
        uint16_t half;
        memcpy(&half, d->wide + 2 * i, 2);
        low = half;
        at = 16;
    }
    if (shift & 8) {
        low |= (uint32_t)d->byte[i] << at;
        at += 8;
    }
    if (shift & 4) low |= (uint32_t)(d->nibble[i / 2] >> (4 * (i & 1)) & 15) << at;
    return low;
}

int dk_encode_some(const dk_block *block, const dk_plan *plan, const dk_encode_table *table, dk_encoder *e,
                   uint64_t start, uint64_t count)
{
    const uint32_t lanes = (1u << plan->lanes_log2) - 1, whole = 1u << plan->precision;
    for (uint64_t i = start; i < start + count; i++) {
        const uint64_t at = dk_at(block, i);
        uint32_t p = dk_prediction(block, at), z = dk_residual(dk_load(block->values, at, block->word), p, block);
        uint32_t c = dk_clamp(dk_key(block, at, p, plan->key_shift), plan->low, plan->contexts);
        uint32_t more = plan->extra >> c & 1, high = z >> (plan->shift + 8 * more);
        uint32_t cell = c << 8 | (high < DK_ESCAPE ? high : DK_ESCAPE);
        uint32_t info = table->info[cell], f = info & 0xfff;
        uint32_t x = e->state[i & lanes];
        put_raw(e, plan->shift, i, z);
        if (more) *e->extras++ = (uint8_t)(z >> plan->shift);
        if (info >> 31) {
            memcpy(e->escapes, &high, block->word);
            e->escapes += block->word;
        }
        if (x >= f << (31 - plan->precision)) {
            uint16_t word = (uint16_t)x;
            if (e->words_end - e->words < 2) return DK_TOO_LARGE;
            memcpy(e->words, &word, 2);
            e->words += 2;
            x >>= 16;
        }
        uint32_t q = (uint32_t)((uint64_t)x * table->reciprocal[cell] >> 32) >> (info >> 25 & 15);
        e->state[i & lanes] = x + (info >> 12 & 0x1fff) + q * (whole - f);
    }
    return 0;
}

static void put_value(const dk_block *block, uint8_t *out, uint64_t i, uint32_t z, uint32_t prediction)
{
    /* A damaged escape may be larger than a word above its raw bits: what does not fit is dropped, in all variants. */
    if (block->word == 2) z &= 0xffff;
    uint32_t r = z >> 1 ^ ((uint32_t)0 - (z & 1));
    uint32_t image = dk_image(prediction, block->is_float);
    if (block->word == 2) {
        image += r << 16;
        uint16_t value = (uint16_t)(block->is_float ? (image ^ (dk_sign(~image) | 0x80000000u)) >> 16 : image >> 16);
        memcpy(out + 2 * i, &value, 2);
    } else {
        image += r;
        uint32_t value = block->is_float ? image ^ (dk_sign(~image) | 0x80000000u) : image;
        memcpy(out + 4 * i, &value, 4);
    }
}

int dk_decode_some(const dk_block *block, const dk_plan *plan, const uint32_t *table, dk_decoder *d, uint8_t *out,
                   uint64_t start, uint64_t count)
{
    const uint32_t lanes = (1u << plan->lanes_log2) - 1, slots = (1u << plan->precision) - 1;
    for (uint64_t i = start + count; i-- > start;) {
        const uint64_t from = dk_at(block, i);
        uint32_t p = dk_prediction(block, from);
        uint32_t c = dk_clamp(dk_key(block, from, p, plan->key_shift), plan->low, plan->contexts);
        uint32_t x = d->state[i & lanes], entry = table[(c << plan->precision) + (x & slots)];
        uint32_t z = get_raw(d, plan->shift, i), at = plan->shift, high = entry & 255;
        x = (entry >> 8 & 0xfff) * (x >> plan->precision) + (entry >> 20);
        if (x < DK_STATE_LOW) {
            uint16_t word;
            if (d->words - d->words_start < 2) return DK_STREAM;
            d->words -= 2;
            memcpy(&word, d->words, 2);
            x = x << 16 | word;
        }
        d->state[i & lanes] = x;
        if (plan->extra >> c & 1) {
            if (d->extras == d->extras_start) return DK_STREAM;
            z |= (uint32_t)*--d->extras << at;
            at += 8;
        }
        if (high == DK_ESCAPE) {
            if (d->escapes - d->escapes_start < (ptrdiff_t)block->word) return DK_STREAM;
            d->escapes -= block->word;
            high = 0;
            memcpy(&high, d->escapes, block->word);
        }
        put_value(block, out, from, z | high << at, p);
    }
    return 0;
}
