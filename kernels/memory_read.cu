// Reading memory: out = sum_j w_j e^s_j v_j / sum_j w_j e^s_j, s = q . k / sqrt(256); one head, bfloat16 in, float out.
// Inputs are finite and start at multiples of 16 bytes.
//
// With one head there are few tiles of queries, so that blocks also share out the keys ("splits"), and a second kernel
// joins what they found. Logits are taken to base 2 and log2(w_j) is added to them: a weight of 0 is -inf, whatever the
// key's logit, and no size of w_j overflows.
#include "mma.cuh"

constexpr int KEY_CHANNELS = 256, VALUE_CHANNELS = 64;
constexpr int WARPS = 8, THREADS = 32 * WARPS;
constexpr int QUERIES = MMA_ROWS * WARPS;  // of a block; `memory_read.py` knows it too
constexpr int KEYS = 32;                   // of a tile; `memory_read.py` knows it too
constexpr int PIECE = 8;                   // bfloat16 numbers in 16 bytes
constexpr int PAD = PIECE;                 // rows are 16 bytes apart modulo 128, so that 8 rows meet each bank once
constexpr int STEPS = KEY_CHANNELS / MMA_DEPTH;
constexpr int KEY_COLUMNS = KEYS / MMA_COLUMNS, VALUE_COLUMNS = VALUE_CHANNELS / MMA_COLUMNS;
constexpr float LOG2_E_OVER_16 = 0.09016844005556021f;  // 16 = sqrt(KEY_CHANNELS)

struct alignas(8) Two { float numbers[2]; };

struct alignas(16) Tile {
    u16 key[KEYS][KEY_CHANNELS + PAD];
    u16 value[KEYS][VALUE_CHANNELS + PAD];
    float log_weight[KEYS];  // to base 2
};

// What a lane holds of its warp's 16 queries: rows group and group + 8 (mma.cuh).
struct Running {
    float best[2];  // largest logit so far
    float sum[2];   // of 2^(logit - best), over this lane's columns only
    float out[VALUE_COLUMNS][4];
};

static __device__ __forceinline__ float minus_infinity() { return __uint_as_float(0xff800000u); }

// Keys from `end` on weigh nothing.
static __device__ __forceinline__ float weight_of(const float* weight, int at, int end) {
    return at < end ? weight[at] : 0.0f;
}

template <int channels>
static __device__ __forceinline__ void start_rows(u16 (*to)[channels + PAD], const u16* from, int rows) {
    constexpr int PIECES = channels / PIECE;
#pragma unroll
    for (int i = threadIdx.x; i < KEYS * PIECES; i += THREADS) {
        int row = i / PIECES, at = i % PIECES * PIECE;
        bool there = row < rows;
        cp_async_16(&to[row][at], from + (there ? row * channels + at : 0), there);
    }
}

// Start copying KEYS keys and values; rows beyond `rows` become zeros.
static __device__ __forceinline__ void start_tile(Tile& tile, const u16* key, const u16* value, int rows) {
    start_rows<KEY_CHANNELS>(tile.key, key, rows);
    start_rows<VALUE_CHANNELS>(tile.value, value, rows);
}

// Fragments A of a warp's 16 queries from row `first`; rows beyond `count` are zeros.
static __device__ __forceinline__ void load_queries(u32 (&a)[STEPS][4], const u16* query, int first, int count) {
    const int lane = threadIdx.x & 31, group = lane / 4, pair = lane % 4;
#pragma unroll
    for (int step = 0; step < STEPS; step++)
#pragma unroll
        for (int word = 0; word < 4; word++) {
            int row = first + group + word % 2 * 8, channel = MMA_DEPTH * step + word / 2 * 8 + 2 * pair;
            a[step][word] = row < count ? *(const u32*)(query + (long long)row * KEY_CHANNELS + channel) : 0u;
        }
}

// Logits of a warp's queries with the tile's keys, weights included: fragments C, 8 keys each.
static __device__ __forceinline__ void find_logits(
    float (&logit)[KEY_COLUMNS][4], const u32 (&query)[STEPS][4], const Tile& tile) {
    const int lane = threadIdx.x & 31, pair = lane % 4;
    // ldmatrix: keys 0..7, channels 0..7 and 8..15; then keys 8..15. Each two are B of 8 keys.
    const u16* corner = &tile.key[lane / 16 * 8 + lane % 8][lane / 8 % 2 * 8];
#pragma unroll
    for (int step = 0; step < STEPS; step++)
#pragma unroll
        for (int two = 0; two < KEY_COLUMNS / 2; two++) {
            u32 b[4];
            ldmatrix_x4(b, corner + 16 * two * (KEY_CHANNELS + PAD) + MMA_DEPTH * step);
            mma_m16n8k16(logit[2 * two], query[step], b[0], b[1]);
            mma_m16n8k16(logit[2 * two + 1], query[step], b[2], b[3]);
        }
#pragma unroll
    for (int column = 0; column < KEY_COLUMNS; column++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float log_weight = tile.log_weight[MMA_COLUMNS * column + 2 * pair + i % 2];
            logit[column][i] = logit[column][i] * LOG2_E_OVER_16 + log_weight;
        }
}

// Take the tile's largest logits into account: what was found before is scaled to them.
static __device__ __forceinline__ void raise_best(Running& running, const float (&logit)[KEY_COLUMNS][4]) {
#pragma unroll
    for (int row = 0; row < 2; row++) {
        float best = running.best[row];
#pragma unroll
        for (int column = 0; column < KEY_COLUMNS; column++)
            best = fmaxf(best, fmaxf(logit[column][2 * row], logit[column][2 * row + 1]));
        for (int away = 1; away < 4; away *= 2)  // the four lanes of one row
            best = fmaxf(best, __shfl_xor_sync(WHOLE_WARP, best, away));
        float factor = exp2f(running.best[row] - best);
        running.best[row] = best;
        running.sum[row] *= factor;
#pragma unroll
        for (int column = 0; column < VALUE_COLUMNS; column++)
#pragma unroll
            for (int i = 0; i < 2; i++) running.out[column][2 * row + i] *= factor;
    }
}

// Fragment A of 2^(logit - best) for 16 keys: two neighbouring fragments C are one A (mma.cuh). The sum takes the
// rounded numbers, so that they stay shares of one whole.
static __device__ __forceinline__ void shares(
    u32 (&a)[4], Running& running, const float (&logit)[KEY_COLUMNS][4], int first_column) {
#pragma unroll
    for (int word = 0; word < 4; word++) {
        const int row = word % 2;
        const float* two = &logit[first_column + word / 2][2 * row];
        a[word] = two_bfloat16(exp2f(two[0] - running.best[row]), exp2f(two[1] - running.best[row]));
        running.sum[row] += lower_half(a[word]) + upper_half(a[word]);
    }
}

static __device__ __forceinline__ void read_values(
    Running& running, const float (&logit)[KEY_COLUMNS][4], const Tile& tile) {
    const int lane = threadIdx.x & 31;
    // ldmatrix, transposed: keys 0..7 and 8..15 of channels 0..7; then of channels 8..15. Each two are B of 8 channels.
    const u16* corner = &tile.value[lane / 8 % 2 * 8 + lane % 8][lane / 16 * 8];
#pragma unroll
    for (int step = 0; step < KEYS / MMA_DEPTH; step++) {
        u32 a[4], b[4];
        shares(a, running, logit, 2 * step);
#pragma unroll
        for (int two = 0; two < VALUE_COLUMNS / 2; two++) {
            ldmatrix_x4_trans(b, corner + MMA_DEPTH * step * (VALUE_CHANNELS + PAD) + 16 * two);
            mma_m16n8k16(running.out[2 * two], a, b[0], b[1]);
            mma_m16n8k16(running.out[2 * two + 1], a, b[2], b[3]);
        }
    }
}

// A tile of nothing but weights of 0 changes nothing, and has no largest logit.
static __device__ __forceinline__ void read_tile(Running& running, const u32 (&query)[STEPS][4], const Tile& tile) {
    if (!__any_sync(WHOLE_WARP, tile.log_weight[threadIdx.x & 31] > minus_infinity())) return;
    float logit[KEY_COLUMNS][4] = {};
    find_logits(logit, query, tile);
    raise_best(running, logit);
    read_values(running, logit, tile);
}

// What one split found for a warp's 16 queries from row `first`, to its place in the scratch.
static __device__ __forceinline__ void store(
    Running& running, float* best, float* sum, float* partial, int first, int count) {
    const int lane = threadIdx.x & 31, group = lane / 4, pair = lane % 4;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float whole = running.sum[half];
        for (int away = 1; away < 4; away *= 2) whole += __shfl_xor_sync(WHOLE_WARP, whole, away);
        int row = first + group + 8 * half;
        if (row >= count) continue;
        if (pair == 0) best[row] = running.best[half], sum[row] = whole;
#pragma unroll
        for (int column = 0; column < VALUE_COLUMNS; column++) {
            const float* two = &running.out[column][2 * half];
            *(Two*)&partial[(long long)row * VALUE_CHANNELS + MMA_COLUMNS * column + 2 * pair] = {{two[0], two[1]}};
        }
    }
}

// query (b, T, 256), key (b, N, 256), value (b, N, 64) as bfloat16, weight (b, N) as float; for every split and query
// the largest logit to base 2 and the sum (splits, b, T), and the unnormalised output (splits, b, T, 64).
// Blocks: tiles of QUERIES queries, splits of `tiles_a_split` tiles of keys, b.
extern "C" __global__ void __launch_bounds__(THREADS) memory_read_split(
    const u16* query, const u16* key, const u16* value, const float* weight, float* best, float* sum, float* partial,
    int queries, int keys, int tiles_a_split) {
    __shared__ Tile tiles[2];
    const long long b = blockIdx.z, place = ((long long)blockIdx.y * gridDim.z + b) * queries;
    const int first_query = blockIdx.x * QUERIES + threadIdx.x / 32 * MMA_ROWS;
    const int first_key = blockIdx.y * tiles_a_split * KEYS, thread = threadIdx.x;
    const int end = min(first_key + tiles_a_split * KEYS, keys);
    key += b * keys * KEY_CHANNELS, value += b * keys * VALUE_CHANNELS, weight += b * keys;

    start_tile(tiles[0], key + (long long)first_key * KEY_CHANNELS, value + (long long)first_key * VALUE_CHANNELS,
               end - first_key);
    if (thread < KEYS) tiles[0].log_weight[thread] = log2f(weight_of(weight, first_key + thread, end));
    u32 a[STEPS][4];
    load_queries(a, query + b * queries * KEY_CHANNELS, first_query, queries);
    Running running = {{minus_infinity(), minus_infinity()}, {}, {}};
    for (int at = first_key, now = 0; at < end; at += KEYS, now ^= 1) {
        const int next = at + KEYS;
        float ahead = 0.0f;
        cp_async_wait_all();
        __syncthreads();  // this tile has landed for all, and all have done with the other one
        if (next < end) {
            start_tile(tiles[now ^ 1], key + (long long)next * KEY_CHANNELS, value + (long long)next * VALUE_CHANNELS,
                       end - next);
            if (thread < KEYS) ahead = weight_of(weight, next + thread, end);  // waited for after this tile
        }
        read_tile(running, a, tiles[now]);
        if (thread < KEYS) tiles[now ^ 1].log_weight[thread] = log2f(ahead);
    }
    store(running, best + place, sum + place, partial + place * VALUE_CHANNELS, first_query, queries);
}

// best, sum (splits, rows) and partial (splits, rows, 64) to out (rows, 64); a thread for each number of `out`
extern "C" __global__ void memory_read_merge(
    const float* best, const float* sum, const float* partial, float* out, int splits, int rows) {
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x, row = i / VALUE_CHANNELS;
    if (row >= rows) return;
    float most = minus_infinity(), whole = 0.0f, found = 0.0f;
    for (int split = 0; split < splits; split++) most = fmaxf(most, best[(long long)split * rows + row]);
    for (int split = 0; split < splits; split++) {
        const long long at = (long long)split * rows + row;
        if (sum[at] == 0.0f) continue;  // nothing but weights of 0
        float factor = exp2f(best[at] - most);
        whole += factor * sum[at];
        found += factor * partial[at * VALUE_CHANNELS + i % VALUE_CHANNELS];
    }
    out[i] = whole > 0.0f ? found / whole : 0.0f;
}
