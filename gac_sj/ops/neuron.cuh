// One step of the LIF neuron and its derivative, in the order of operations of lif/reference.py; compiled without
// contraction (FMA), so that both agree bit for bit.
//
// Macros: DECAY_INPUT, SOFT_RESET, DETACH_RESET, STRICT (0 or 1), DERIVATIVE: that of the
// surrogate function, of x = h - threshold and the numbers a, b, c.

struct Neuron { float tau, decay, threshold, rest, a, b, c; };

// For derivatives.
__device__ inline float clamp_min(float x, float low) { return x < low ? low : x; }  // keeps NaN, as torch does
__device__ inline float square(float x) { return x * x; }
__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
__device__ inline float sigmoid_slope(float x) { return (1.0f - sigmoid(x)) * sigmoid(x); }

__device__ inline float charge(const Neuron& n, float v, float x) {
  return DECAY_INPUT ? v + (x - (v - n.rest)) / n.tau : (n.rest + n.decay * (v - n.rest)) + x;
}

__device__ inline float fire(const Neuron& n, float h) {
  const float x = h - n.threshold;
  return (STRICT ? x > 0.0f : x >= 0.0f) ? 1.0f : 0.0f;
}

__device__ inline float reset(const Neuron& n, float h, float s) {
  return SOFT_RESET ? h - s * n.threshold : (1.0f - s) * h + s * n.rest;
}

// Gradients with regard to the charged potential h, from those of the spike and of the potential after the reset.
__device__ inline float grad_charged(const Neuron& n, float h, float grad_s, float grad_v) {
  const float s = fire(n, h), x = h - n.threshold, a = n.a, b = n.b, c = n.c;
  if (!DETACH_RESET) grad_s = SOFT_RESET ? grad_s + -grad_v * n.threshold : (grad_s + grad_v * n.rest) + -(grad_v * h);
  return (SOFT_RESET ? grad_v : grad_v * (1.0f - s)) + (DERIVATIVE) * grad_s;
}

__device__ inline float grad_input(const Neuron& n, float grad_h) { return DECAY_INPUT ? grad_h / n.tau : grad_h; }

// What the potential before the charge gets: two terms, since autograd adds one after the other to what is there.
__device__ inline float grad_kept(const Neuron& n, float grad_h) { return DECAY_INPUT ? grad_h : n.decay * grad_h; }
__device__ inline float grad_leaked(const Neuron& n, float grad_h) { return DECAY_INPUT ? -(grad_h / n.tau) : 0.0f; }
