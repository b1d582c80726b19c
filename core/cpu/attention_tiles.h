/* attention_tiles.h: cuts an attention job into tiles, the same for every instruction set. An attention_<set>.c includes it once, after
 * having told
 *   QUERIES                      the most queries of a tile
 *   tile                         whose job, head_kv, head0, heads, row0 and rows are set here
 *   attend_tile(tile, scratch)   computes one
 * Query heads of a tile share a KV head, so that K and V are read once for them. */
static void attend_tiles(const cpu_attention *job, uint32_t row0, uint32_t row1, uint32_t head0, uint32_t head1, float *scratch) {
    const uint32_t shared = job->n_head / job->n_head_kv; /* query heads of a KV head */
    for (uint32_t head = head0; head < head1;) {
        uint32_t heads = shared - head % shared;
        if (heads > head1 - head) heads = head1 - head;
        if (heads > QUERIES) heads = QUERIES;
        const uint32_t most_rows = QUERIES / heads;
        for (uint32_t row = row0; row < row1; row += most_rows) {
            const uint32_t rows = row1 - row < most_rows ? row1 - row : most_rows;
            attend_tile(&(tile){.job = job, .head_kv = head / shared, .head0 = head, .heads = heads, .row0 = row, .rows = rows}, scratch);
        }
        head += heads;
    }
}
