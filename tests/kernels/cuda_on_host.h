// CUDA sources compiled for the host: every thread of a block is a fibre, barriers and shuffles switch between them.
#include <ucontext.h>

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

struct Index { int x, y, z; };
static Index threadIdx, blockIdx, blockDim, gridDim;

struct Fibre { ucontext_t context; std::vector<char> stack; Index thread; bool is_done; };
static std::vector<Fibre> fibres;
static ucontext_t scheduler;
static int current, arrived;
static long generation;

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
    long mine = generation;
    if (++arrived == (int)fibres.size()) { arrived = 0; generation++; return; }
    while (generation == mine) yield();
}

// Shuffles: all lanes of a warp put their value down, then all read.
struct Warp { float values[32]; int arrived; long generation; };
static std::vector<Warp> warps;

static void warp_barrier(Warp& warp, int lanes) {
    long mine = warp.generation;
    if (++warp.arrived == lanes) { warp.arrived = 0; warp.generation++; return; }
    while (warp.generation == mine) yield();
}

static float __shfl_down_sync(unsigned, float value, int away) {
    int flat = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    int lane = flat & 31, total = (int)fibres.size(), lanes = std::min(32, total - (flat & ~31));
    Warp& warp = warps[flat >> 5];
    warp.values[lane] = value;
    warp_barrier(warp, lanes);
    float found = lane + away < lanes ? warp.values[lane + away] : value;
    warp_barrier(warp, lanes);
    return found;
}

static unsigned __float_as_uint(float value) { unsigned bits; memcpy(&bits, &value, 4); return bits; }
static float __uint_as_float(unsigned bits) { float value; memcpy(&value, &bits, 4); return value; }
static float __fadd_rn(float a, float b) { return a + b; }
static float __fsub_rn(float a, float b) { return a - b; }
static float __fmul_rn(float a, float b) { return a * b; }
static float __fdiv_rn(float a, float b) { return a / b; }
static double __dsub_rn(double a, double b) { return a - b; }
static double __dmul_rn(double a, double b) { return a * b; }
static double __ddiv_rn(double a, double b) { return a / b; }
static int atomicAdd(int* at, int value) { int old = *at; *at += value; return old; }
static int atomicMin(int* at, int value) { int old = *at; if (value < old) *at = value; return old; }
static int atomicMax(int* at, int value) { int old = *at; if (value > old) *at = value; return old; }

static void (*body)(void**);
static void** body_arguments;

static void start() {
    body(body_arguments);
    fibres[current].is_done = true;
    swapcontext(&fibres[current].context, &scheduler);
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
        fibre.is_done = false;
        getcontext(&fibre.context);
        fibre.context.uc_stack.ss_sp = fibre.stack.data();
        fibre.context.uc_stack.ss_size = fibre.stack.size();
        fibre.context.uc_link = &scheduler;
        makecontext(&fibre.context, start, 0);
    }
    // A thread that has left before a barrier would hang a GPU too: say so instead of waiting for ever.
    for (long idle = 0; alive(); idle++) {
        if (idle > 1000000) abort();
        for (int i = 0; i < count; i++) {
            if (fibres[i].is_done) continue;
            current = i;
            threadIdx = fibres[i].thread;
            swapcontext(&scheduler, &fibres[i].context);
        }
    }
}

static void run_grid(const int* grid, const int* block) {
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    for (blockIdx.z = 0; blockIdx.z < grid[2]; blockIdx.z++)
        for (blockIdx.y = 0; blockIdx.y < grid[1]; blockIdx.y++)
            for (blockIdx.x = 0; blockIdx.x < grid[0]; blockIdx.x++) run_block();
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
