// Low-resolution logits to a mask of the slice's size, its area and its box: kernels/resize.py's bilinear interpolation
// in the same order of operations, so that both give the same bits.
#include "common.cuh"

extern "C" __global__ void clear_statistics(int* area, int* box, int count, int height, int width) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    area[i] = 0;
    box[4 * i] = height;
    box[4 * i + 1] = 0;
    box[4 * i + 2] = width;
    box[4 * i + 3] = 0;
}

// between two numbers, without a fused multiply-add
static __device__ __forceinline__ float between(float start, float stop, float share) {
    return __fadd_rn(__fmul_rn(__fsub_rn(stop, start), share), start);
}

// logits (b, low, low); low_y, share_y (height,) and low_x, share_x (width,): left neighbour and share of the right one
extern "C" __global__ void mask_of_logits(
    const float* logits, const int* low_y, const float* share_y, const int* low_x, const float* share_x, u8* mask,
    int* area, int* box, int low, int height, int width) {
    __shared__ float sums[32];
    __shared__ int bounds[4];
    int row = blockIdx.z, y = blockIdx.y, x = blockIdx.x * blockDim.x + threadIdx.x;
    if (threadIdx.x == 0) {
        bounds[0] = width;
        bounds[1] = 0;
    }
    __syncthreads();
    int is_inside = 0;
    if (x < width) {
        const float* own = logits + (long long)row * low * low;
        int top = low_y[y], bottom = top + 1 < low ? top + 1 : top, left = low_x[x], right = left + 1 < low ? left + 1 : left;
        float at_left = between(own[top * low + left], own[bottom * low + left], share_y[y]);
        float at_right = between(own[top * low + right], own[bottom * low + right], share_y[y]);
        is_inside = between(at_left, at_right, share_x[x]) > 0.0f;
        mask[((long long)row * height + y) * width + x] = (u8)is_inside;
        if (is_inside) {
            atomicMin(&bounds[0], x);
            atomicMax(&bounds[1], x + 1);
        }
    }
    float inside = block_sum((float)is_inside, sums);
    if (threadIdx.x == 0 && inside > 0.0f) {
        atomicAdd(&area[row], (int)inside);
        atomicMin(&box[4 * row], y);
        atomicMax(&box[4 * row + 1], y + 1);
        atomicMin(&box[4 * row + 2], bounds[0]);
        atomicMax(&box[4 * row + 3], bounds[1]);
    }
}
