// CUDA sources compiled for the host: every thread of a block is a fibre, barriers and shuffles switch between them.
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <tuple>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(threads)

struct Index { int x, y, z; };
static Index threadIdx, blockIdx, blockDim, gridDim;

struct Copy { void* to; const void* from; };
struct Fibre {
    ucontext_t context;
    std::vector<char> stack;
    std::vector<Copy> copies;
    Index thread;
    bool is_done;
    long waits_for;  // the barrier before which it stands, or -1
};
static std::vector<Fibre> fibres;
static ucontext_t scheduler;
static int current, arrived;
static long generation;

// A kernel whose first block never waits for another thread runs its other blocks without fibres, many times as fast.
static bool has_waited, is_plain;
static void note_wait() {
    if (is_plain) abort();  // only a later block waits: run all of this kernel's with fibres then
    has_waited = true;
}

static void yield() {
    int self = current;
    swapcontext(&fibres[self].context, &scheduler);
}

static int alive() {
    int count = 0;
    for (auto& fibre : fibres) count += !fibre.is_done;
    return count;
}

static void __syncthreads() {
    note_wait();
    long mine = generation;
    if (++arrived == (int)fibres.size()) { arrived = 0; generation++; return; }
    fibres[current].waits_for = mine;
    while (generation == mine) yield();
}

// Exchange within a warp: all lanes put something down, then all read, then all may put down again.
struct Warp { alignas(16) unsigned char held[32][64]; int arrived; long generation; };
static std::vector<Warp> warps;

static void warp_barrier(Warp& warp, int lanes) {
    note_wait();
    long mine = warp.generation;
    if (++warp.arrived == lanes) { warp.arrived = 0; warp.generation++; return; }
    while (warp.generation == mine) yield();
}

template <typename T>
struct Exchange {
    static_assert(sizeof(T) <= sizeof(Warp::held[0]));
    int flat = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    int lane = flat & 31, lanes = std::min(32, (int)fibres.size() - (flat & ~31));
    Warp& warp = warps[flat >> 5];
    explicit Exchange(T mine) { memcpy(warp.held[lane], &mine, sizeof mine); warp_barrier(warp, lanes); }
    ~Exchange() { warp_barrier(warp, lanes); }
    T of(int other) const { T found; memcpy(&found, warp.held[other], sizeof found); return found; }
};

static float __shfl_down_sync(unsigned, float value, int away) {
    Exchange<float> all(value);
    return all.lane + away < all.lanes ? all.of(all.lane + away) : value;
}
static float __shfl_xor_sync(unsigned, float value, int away) {
    Exchange<float> all(value);
    return (all.lane ^ away) < all.lanes ? all.of(all.lane ^ away) : value;
}
static int __any_sync(unsigned, int is_so) {
    Exchange<int> all(is_so);
    int any = 0;
    for (int lane = 0; lane < all.lanes; lane++) any |= all.of(lane);
    return any != 0;
}

// What `mma.cuh` builds on. Matrices as PTX ISA, "ldmatrix", says: lane 8 m + r knows row r of matrix m.
template <int count>
struct WarpWords {
    struct Words { unsigned words[count]; };
    Exchange<Words> all;
    WarpWords(Words mine) : all(mine) {}
    unsigned of(int lane, int word) const { return all.of(lane).words[word]; }
};

template <bool is_transposed>
static void load_matrices(unsigned (&out)[4], const unsigned short* mine) {
    if ((uintptr_t)mine % 16) abort();
    Exchange<const unsigned short*> rows(mine);
    for (int matrix = 0; matrix < 4; matrix++) {
        unsigned halves[2];
        for (int i = 0; i < 2; i++) {
            int row = rows.lane / 4, column = rows.lane % 4 * 2 + i;
            if (is_transposed) std::swap(row, column);
            halves[i] = rows.of(8 * matrix + row)[column];
        }
        out[matrix] = halves[0] | halves[1] << 16;
    }
}
static void ldmatrix_x4(unsigned (&out)[4], const unsigned short* row) { load_matrices<false>(out, row); }
static void ldmatrix_x4_trans(unsigned (&out)[4], const unsigned short* row) { load_matrices<true>(out, row); }

// A copy may land at any time until it is waited for: odd threads' land at once, even ones' at the last moment.
static void land(const Copy& copy) {
    if (copy.from) memcpy(copy.to, copy.from, 16);
    else memset(copy.to, 0, 16);
}
static void cp_async_16(void* to, const void* from, bool there) {
    note_wait();
    if ((uintptr_t)to % 16 || (uintptr_t)from % 16) abort();
    Copy copy = {to, there ? from : nullptr};
    if (threadIdx.x % 2) land(copy);
    else fibres[current].copies.push_back(copy);
}
static void cp_async_wait_all() {
    for (auto& copy : fibres[current].copies) land(copy);
    fibres[current].copies.clear();
}

using std::min;
static unsigned __float_as_uint(float value) { unsigned bits; memcpy(&bits, &value, 4); return bits; }
static float __uint_as_float(unsigned bits) { float value; memcpy(&value, &bits, 4); return value; }
static float __fadd_rn(float a, float b) { return a + b; }
static float __fsub_rn(float a, float b) { return a - b; }
static float __fmul_rn(float a, float b) { return a * b; }
static float __fdiv_rn(float a, float b) { return a / b; }

static void (*body)(void**);
static void** body_arguments;

static void start() {
    body(body_arguments);
    fibres[current].is_done = true;
    swapcontext(&fibres[current].context, &scheduler);
}

// One warp runs as far ahead of the others as barriers let it, so that a barrier that is missing shows.
static bool run_warp(int warp) {
    bool has_moved = false;
    for (long rounds = 0, is_moving = 1; is_moving; rounds++) {
        if (rounds > 1000000) abort();
        is_moving = 0;
        for (int i = 32 * warp; i < std::min(32 * warp + 32, (int)fibres.size()); i++) {
            if (fibres[i].is_done || fibres[i].waits_for == generation) continue;
            is_moving = has_moved = true;
            current = i;
            threadIdx = fibres[i].thread;
            swapcontext(&scheduler, &fibres[i].context);
        }
    }
    return has_moved;
}

static void run_block() {
    int count = blockDim.x * blockDim.y * blockDim.z;
    fibres.resize(count);
    warps.assign((count + 31) / 32, Warp{});
    arrived = 0;
    for (int i = 0; i < count; i++) {
        Fibre& fibre = fibres[i];
        fibre.stack.resize(1 << 15);
        fibre.thread = {i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y};
        fibre.copies.clear();
        fibre.is_done = false;
        fibre.waits_for = -1;
        getcontext(&fibre.context);
        fibre.context.uc_stack.ss_sp = fibre.stack.data();
        fibre.context.uc_stack.ss_size = fibre.stack.size();
        fibre.context.uc_link = &scheduler;
        makecontext(&fibre.context, start, 0);
    }
    // A thread that has left before a barrier would hang a GPU too: say so instead of waiting for ever.
    while (alive()) {
        bool has_moved = false;
        for (int warp = 0; warp < (int)warps.size(); warp++) has_moved |= run_warp(warp);
        if (!has_moved) abort();
    }
}

static void run_plain_block() {
    int count = blockDim.x * blockDim.y * blockDim.z;
    for (int i = 0; i < count; i++) {
        threadIdx = {i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y};
        body(body_arguments);
    }
}

static void run_grid(const int* grid, const int* block) {
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    has_waited = is_plain = false;
    for (blockIdx.z = 0; blockIdx.z < grid[2]; blockIdx.z++)
        for (blockIdx.y = 0; blockIdx.y < grid[1]; blockIdx.y++)
            for (blockIdx.x = 0; blockIdx.x < grid[0]; blockIdx.x++) {
                if (is_plain) { run_plain_block(); continue; }
                run_block();
                is_plain = !has_waited;
            }
}

template <auto function, typename... A, size_t... I>
static void call(void** arguments, void (*)(A...), std::index_sequence<I...>) {
    function(*(A*)arguments[I]...);
}

template <auto function, typename... A>
static void unpack(void** arguments, void (*same)(A...)) {
    call<function>(arguments, same, std::index_sequence_for<A...>{});
}

#define ON_HOST(entry)                                                                      \
    extern "C" void host_##entry(const int* grid, const int* block, void** arguments) {     \
        body = [](void** them) { unpack<entry>(them, entry); };                             \
        body_arguments = arguments;                                                         \
        run_grid(grid, block);                                                              \
    }
