// What the kernels share. No header of the CUDA toolkit is needed, so that NVRTC compiles this as it is; tests compile
// the same sources for the host (tests/kernels/cuda_on_host.h).
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;

struct alignas(16) Sixteen { u32 words[4]; };  // bytes: the most that a thread moves at once

static __device__ __forceinline__ u32 bits_of(float value) { return __float_as_uint(value); }

// To the nearest bfloat16, ties to even; finite values only.
static __device__ __forceinline__ u32 bfloat16_bits(float value) {
    u32 bits = bits_of(value);
    return bits + 0x7fffu + ((bits >> 16) & 1u);
}

static __device__ __forceinline__ float rounded_to_bfloat16(float value) {
    return __uint_as_float(bfloat16_bits(value) & 0xffff0000u);
}

// Sum over a block of at most 1024 threads, valid in thread 0; `shared` holds 32 numbers.
static __device__ __forceinline__ float block_sum(float value, float* shared) {
    for (int away = 16; away > 0; away >>= 1) value += __shfl_down_sync(0xffffffffu, value, away);
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    if (lane == 0) shared[warp] = value;
    __syncthreads();
    value = threadIdx.x < (blockDim.x + 31) / 32 ? shared[lane] : 0.0f;
    if (warp == 0)
        for (int away = 16; away > 0; away >>= 1) value += __shfl_down_sync(0xffffffffu, value, away);
    __syncthreads();
    return value;
}
