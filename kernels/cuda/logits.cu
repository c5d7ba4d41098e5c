/* nll and kl: a block a row of logits, sums in f64, in an order that depends on V alone. */
#include "kernels/cuda/instr.cuh"

enum { LOGIT_THREADS = 512 };

enum { JOIN_SUM, JOIN_MOST, JOIN_LEAST };

/* Joins one value of each thread in a fixed tree; all threads get the result. */
template <int JOIN> static __device__ double block_join(double v, double *shared)
{
    __syncthreads();
    shared[threadIdx.x] = v;
    for (int d = LOGIT_THREADS / 2; d > 0; d /= 2) {
        __syncthreads();
        if (threadIdx.x < d) {
            double a = shared[threadIdx.x], b = shared[threadIdx.x + d];
            shared[threadIdx.x] = JOIN == JOIN_SUM ? a + b : JOIN == JOIN_MOST ? fmax(a, b) : fmin(a, b);
        }
    }
    __syncthreads();
    return shared[0];
}

static __device__ float row_max(const float *l, int64_t V, double *shared)
{
    float most = -INFINITY;
    for (int64_t i = threadIdx.x; i < V; i += LOGIT_THREADS)
        most = fmaxf(most, l[i]);
    return (float)block_join<JOIN_MOST>((double)most, shared);
}

/* The first place of the maximum; 0 for a row of NaN. */
static __device__ int32_t row_top1(const float *l, int64_t V, float most, double *shared)
{
    double place = (double)V;
    for (int64_t i = threadIdx.x; i < V; i += LOGIT_THREADS)
        if (l[i] == most) {
            place = (double)i;
            break;
        }
    place = block_join<JOIN_LEAST>(place, shared);
    return place < (double)V ? (int32_t)place : 0;
}

static __device__ double log_sum_exp(const float *l, int64_t V, float most, double *shared)
{
    double sum = 0;
    for (int64_t i = threadIdx.x; i < V; i += LOGIT_THREADS)
        sum += (double)expf(l[i] - most);
    return (double)most + log(block_join<JOIN_SUM>(sum, shared));
}

static __global__ void __launch_bounds__(LOGIT_THREADS) nll_rows(const float *logits, int64_t V, const int32_t *targets, double *nll, int32_t *top1)
{
    __shared__ double shared[LOGIT_THREADS];
    const float *l = logits + (int64_t)blockIdx.x * V;
    float most = row_max(l, V, shared);
    double lse = log_sum_exp(l, V, most, shared);
    int32_t top = row_top1(l, V, most, shared);
    if (threadIdx.x == 0) {
        nll[blockIdx.x] = lse - (double)l[targets[blockIdx.x]];
        top1[blockIdx.x] = top;
    }
}

static __global__ void __launch_bounds__(LOGIT_THREADS) kl_rows(const float *ref, const float *logits, int64_t V, const int32_t *targets, struct kl_row *out)
{
    __shared__ double shared[LOGIT_THREADS];
    const float *r = ref + (int64_t)blockIdx.x * V, *l = logits + (int64_t)blockIdx.x * V;
    float most_r = row_max(r, V, shared), most = row_max(l, V, shared);
    double weight = 0, diff = 0;
    for (int64_t i = threadIdx.x; i < V; i += LOGIT_THREADS) {
        double p = (double)expf(r[i] - most_r);
        weight += p;
        diff = fma(p, (double)r[i] - (double)l[i], diff);
    }
    weight = block_join<JOIN_SUM>(weight, shared);
    diff = block_join<JOIN_SUM>(diff, shared);
    double lse_r = (double)most_r + log(weight), lse = log_sum_exp(l, V, most, shared);
    int32_t top_r = row_top1(r, V, most_r, shared), top = row_top1(l, V, most, shared);
    if (threadIdx.x == 0) {
        struct kl_row *o = out + blockIdx.x;
        int32_t target = targets[blockIdx.x];
        o->nll_ref = lse_r - (double)r[target];
        o->nll = lse - (double)l[target];
        o->kl = diff / weight - (lse_r - lse);
        o->same_top1 = top_r == top;
    }
}

cudaError_t launch_nll(cudaStream_t s, const float *logits, int64_t M, int64_t V, const int32_t *targets, double *nll, int32_t *top1)
{
    LAUNCH((nll_rows), (unsigned)M, LOGIT_THREADS, 0, s, logits, V, targets, nll, top1);
    return cudaGetLastError();
}

cudaError_t launch_kl(cudaStream_t s, const float *ref, const float *logits, int64_t M, int64_t V, const int32_t *targets, struct kl_row *out)
{
    LAUNCH((kl_rows), (unsigned)M, LOGIT_THREADS, 0, s, ref, logits, V, targets, out);
    return cudaGetLastError();
}
