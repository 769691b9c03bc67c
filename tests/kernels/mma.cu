// The instructions of `mma.cuh` by themselves, for one warp, so that tests see what each lane holds.
#include "mma.cuh"

// a (32 lanes, 4), b (32, 2) as words, c (32, 4): c += a * b
extern "C" __global__ void multiply(const u32* a, const u32* b, float* c) {
    const int lane = threadIdx.x;
    u32 words[4];
    float sum[4];
    for (int i = 0; i < 4; i++) words[i] = a[4 * lane + i], sum[i] = c[4 * lane + i];
    mma_m16n8k16(sum, words, b[2 * lane], b[2 * lane + 1]);
    for (int i = 0; i < 4; i++) c[4 * lane + i] = sum[i];
}

// 32 rows of 8 numbers, copied to shared memory but for the last one, to words (2: as they are and transposed, 32, 4)
extern "C" __global__ void matrices(const u16* rows, u32* words) {
    __shared__ Sixteen held[32];
    const int lane = threadIdx.x;
    u32 found[4], turned[4];
    cp_async_16(&held[lane], rows + 8 * lane, lane < 31);
    cp_async_wait_all();
    __syncthreads();
    ldmatrix_x4(found, (const u16*)&held[lane]);
    ldmatrix_x4_trans(turned, (const u16*)&held[lane]);
    for (int i = 0; i < 4; i++) words[4 * lane + i] = found[i], words[128 + 4 * lane + i] = turned[i];
}

// pairs (32, 2) to words (32,)
extern "C" __global__ void pairs(const float* numbers, u32* words) {
    words[threadIdx.x] = two_bfloat16(numbers[2 * threadIdx.x], numbers[2 * threadIdx.x + 1]);
}
