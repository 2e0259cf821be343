/* How often each symbol occurs in each context, in a sample. */
#include "rans.h"

static uint32_t symbol_index(const dk_block *block, const dk_plan *plan, uint64_t number)
{
    const uint64_t i = dk_at(block, number);
    uint32_t p = dk_prediction(block, i), z = dk_residual(dk_load(block->values, i, block->word), p, block);
    uint32_t c = dk_clamp(dk_key(block, i, p, plan->key_shift), plan->low, plan->contexts);
    uint32_t high = z >> (plan->shift + 8 * (plan->extra >> c & 1));
    return c << 8 | (high < DK_ESCAPE ? high : DK_ESCAPE);
}

/* Runs that are looked up together. */
#define TOGETHER 8

void dk_count(const dk_block *block, const dk_plan *plan, dk_index_runs index_runs, uint64_t samples,
              uint32_t turns[DK_TURNS * DK_CELLS], uint32_t counts[DK_CELLS])
{
    const size_t cells = (size_t)plan->contexts * DK_SYMBOLS;
    uint16_t index[TOGETHER * DK_LANES];
    uint64_t starts[TOGETHER];
    for (size_t t = 0; t < DK_TURNS; t++) memset(turns + t * DK_CELLS, 0, cells * sizeof *turns);
    dk_runs runs = dk_sample_runs(block->count, samples);
    const int all = block->count <= samples;
    const uint64_t number = all ? block->count / DK_LANES : runs.runs;
    for (uint64_t run = 0; run < number;) {
        uint32_t taken = 0;
        for (; taken < TOGETHER && run < number; taken++, run++)
            starts[taken] = dk_at(block, all ? run * DK_LANES : dk_run_start(&runs, run));
        for (uint64_t next = run; !all && next < run + TOGETHER && next < number; next++)
            dk_prefetch(block, dk_at(block, dk_run_start(&runs, next)));
        index_runs(block, plan, starts, taken, index);
        for (uint32_t k = 0; k < taken * DK_LANES; k += DK_TURNS)
            for (uint32_t t = 0; t < DK_TURNS; t++) turns[t * DK_CELLS + index[k + t]]++;
    }
    if (all)
        for (uint64_t i = number * DK_LANES; i < block->count; i++) turns[symbol_index(block, plan, i)]++;
    for (size_t cell = 0; cell < cells; cell++)
        counts[cell] = turns[cell] + turns[DK_CELLS + cell] + turns[2 * DK_CELLS + cell] + turns[3 * DK_CELLS + cell];
}
