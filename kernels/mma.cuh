// What attention kernels ask of tensor cores and of the copies into shared memory, one instruction a function, by its
// name in PTX. On sm_75, which multiplies no bfloat16 and copies nothing asynchronously, plain code does the same.
//
// A warp's 32 lanes hold a matrix together. By PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type",
// lane = 4 * group + pair holds, two neighbours in one word, the lower channel in the lower half:
//   A (16 rows, 16 deep):    word 0: row group,     depths 2 pair, 2 pair + 1;   word 2: the same row, depths + 8
//                            word 1: row group + 8, depths 2 pair, 2 pair + 1;   word 3: the same row, depths + 8
//   B (16 deep, 8 columns):  word 0: column group,  depths 2 pair, 2 pair + 1;   word 1: the same column, depths + 8
//   C (16 rows, 8 columns):  0, 1: row group, columns 2 pair, 2 pair + 1;   2, 3: row group + 8, the same columns
#pragma once
#include "common.cuh"

constexpr u32 WHOLE_WARP = 0xffffffffu;
constexpr int MMA_ROWS = 16, MMA_COLUMNS = 8, MMA_DEPTH = 16;

static __device__ __forceinline__ float lower_half(u32 word) { return __uint_as_float(word << 16); }
static __device__ __forceinline__ float upper_half(u32 word) { return __uint_as_float(word & 0xffff0000u); }

// Two numbers, rounded to bfloat16, in one word.
static __device__ __forceinline__ u32 two_bfloat16(float lower, float upper) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    u32 word;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(upper), "f"(lower));
    return word;
#else
    return bfloat16_bits(lower) >> 16 | (bfloat16_bits(upper) & 0xffff0000u);
#endif
}

#ifdef __CUDA_ARCH__  // the host's shim has its own of these, and its copies are as late or as early as they may be

// Words of any lane of the warp, of which all lanes ask for the same `word` at a time.
template <int count>
struct WarpWords {
    u32 mine[count];
    __device__ __forceinline__ u32 of(int lane, int word) const { return __shfl_sync(WHOLE_WARP, mine[word], lane); }
};

static __device__ __forceinline__ u32 shared_address(const void* in_shared) {
    return (u32)__cvta_generic_to_shared(in_shared);
}

// Four 8 x 8 matrices of 16-bit numbers: lane 8 m + r gives the address of row r of matrix m, and word m of lane
// 4 * row + pair becomes columns 2 pair, 2 pair + 1 of that row (PTX ISA, "ldmatrix").
static __device__ __forceinline__ void ldmatrix_x4(u32 (&out)[4], const u16* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3]) : "r"(shared_address(row)) : "memory");
}

// The same, each matrix transposed.
static __device__ __forceinline__ void ldmatrix_x4_trans(u32 (&out)[4], const u16* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3]) : "r"(shared_address(row)) : "memory");
}

// 16 bytes to shared memory, zeros if they are not `there`; `from` is then not read.
static __device__ __forceinline__ void cp_async_16(void* to, const void* from, bool there) {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :: "r"(shared_address(to)), "l"(from), "r"(there ? 16 : 0) : "memory");
#else
    *(Sixteen*)to = there ? *(const Sixteen*)from : Sixteen{};
#endif
}

// Until this thread's copies have landed; others' need a barrier afterwards.
static __device__ __forceinline__ void cp_async_wait_all() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

#endif

// sum += a * b; exact products, summed in float32.
static __device__ __forceinline__ void mma_m16n8k16(float (&sum)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    const int lane = threadIdx.x & 31, group = lane / 4, pair = lane % 4;
    const WarpWords<6> words{{a[0], a[1], a[2], a[3], b0, b1}};
#pragma unroll 1  // or compilation takes a quarter of a minute
    for (int depth = 0; depth < 4; depth++)
#pragma unroll
        for (int half = 0; half < 2; half++) {  // depths 8 half + 2 depth and the next one
            u32 rows[2], columns[2];
            for (int i = 0; i < 2; i++) {
                rows[i] = words.of(4 * group + depth, 2 * half + i);
                columns[i] = words.of(4 * (2 * pair + i) + depth, 4 + half);
            }
            for (int i = 0; i < 4; i++) {
                u32 row = rows[i / 2], column = columns[i % 2];
                sum[i] += lower_half(row) * lower_half(column) + upper_half(row) * upper_half(column);
            }
        }
#endif
}
