/**
 * Where the time of a training step goes: every function of the wasm module, and BLAS, wrapped in a clock, with the
 * arithmetic or the bytes that its arguments imply. Bytes are those that must move if every operand is read once.
 */
import type { Blas } from "../../src/engine/kernels/native/blas.ts";
import type { KernelFunctions } from "../../src/engine/kernels/wasm/module.ts";

export interface Share {
  calls: number;
  seconds: number;
  flops: number;
  bytes: number;
}

/** Floating-point operations or bytes of a call, by the function's name and its leading arguments. */
const workOf: Readonly<Record<string, (...sizes: number[]) => { flops?: number; bytes?: number }>> = {
  linear_forward: (r = 0, o = 0, i = 0) => ({ flops: 2 * r * o * i }),
  linear_grad_x: (r = 0, o = 0, i = 0) => ({ flops: 2 * r * o * i }),
  linear_grad_w: (r = 0, o = 0, i = 0) => ({ flops: 2 * r * o * i }),
  cross_entropy: (r = 0, v = 0, d = 0) => ({ flops: 6 * r * v * d }),
  cross_entropy_rows: (m = 0, v = 0) => ({ bytes: 4 * 5 * m * v }),
  attention_forward: (b = 0, t = 0, _s = 0, n = 0, _k = 0, h = 0) => ({ flops: 2 * b * n * h * t * (t + 1) }),
  attention_backward: (b = 0, t = 0, n = 0, _k = 0, h = 0) => ({ flops: 5 * b * n * h * t * (t + 1) }),
  rms_norm_forward: (r = 0, d = 0) => ({ bytes: 4 * 2 * r * d }),
  rms_norm_backward: (r = 0, d = 0) => ({ bytes: 4 * 3 * r * d }),
  rope_rotate: (b = 0, t = 0, n = 0, h = 0) => ({ bytes: 4 * 2 * b * t * n * h }),
  swiglu_forward: (size = 0) => ({ bytes: 4 * 3 * size }),
  swiglu_backward: (size = 0) => ({ bytes: 4 * 5 * size }),
  embedding_gather: (r = 0, _v = 0, d = 0) => ({ bytes: 4 * 2 * r * d }),
  embedding_scatter: (r = 0, v = 0, d = 0) => ({ bytes: 4 * (3 * r * d + v * d) }),
  adamw_step: (size = 0) => ({ bytes: 4 * 7 * size }),
  sum_of_squares: (size = 0) => ({ bytes: 4 * size }),
  to_bf16: (size = 0) => ({ bytes: 6 * size }),
};

export class Profile {
  readonly shares = new Map<string, Share>();

  /** @returns the functions, timed. */
  functions(c: KernelFunctions): KernelFunctions {
    const entries = Object.entries(c).map(([name, run]) => [
      name,
      typeof run !== "function" || name.includes("scratch")
        ? run
        : (...values: number[]) => this.#time(name, workOf[name]?.(...values) ?? {}, () => run(...values)),
    ]);
    return Object.fromEntries(entries) as KernelFunctions;
  }

  /** @returns the library, timed. */
  blas(blas: Blas): Blas {
    return {
      name: blas.name,
      multiply: (m, n, k, ...rest) =>
        this.#time("matrix products", { flops: 2 * m * n * k }, () => blas.multiply(m, n, k, ...rest)),
    };
  }

  #time<T>(name: string, { flops = 0, bytes = 0 }: { flops?: number; bytes?: number }, run: () => T): T {
    const start = performance.now();
    try {
      return run();
    } finally {
      const share = this.shares.get(name) ?? { calls: 0, seconds: 0, flops: 0, bytes: 0 };
      this.shares.set(name, share);
      share.calls++;
      share.seconds += (performance.now() - start) / 1000;
      share.flops += flops;
      share.bytes += bytes;
    }
  }

  /** The rows, largest first; what no kernel accounts for is tfjs: its tape, its additions and its bookkeeping. */
  print(title: string, totalSeconds: number, peakGflops: number, peakGigabytes: number): void {
    console.log(
      `\n${title}: ${(totalSeconds * 1e3).toFixed(0)} ms; product peak ${peakGflops.toFixed(0)} GFLOP/s, memory ${peakGigabytes.toFixed(1)} GB/s`,
    );
    const sorted = [...this.shares].sort((a, b) => b[1].seconds - a[1].seconds);
    const known = sorted.reduce((sum, [, { seconds }]) => sum + seconds, 0);
    for (const [name, { calls, seconds, flops, bytes }] of sorted) {
      const gflops = flops / seconds / 1e9;
      const gigabytes = bytes / seconds / 1e9;
      const rate =
        flops > 0
          ? `${gflops.toFixed(1).padStart(7)} GFLOP/s ${((100 * gflops) / peakGflops).toFixed(0).padStart(4)} % of peak`
          : bytes > 0
            ? `${gigabytes.toFixed(1).padStart(7)} GB/s    ${((100 * gigabytes) / peakGigabytes).toFixed(0).padStart(4)} % of peak`
            : "";
      console.log(line(name, calls, seconds, totalSeconds, rate));
    }
    console.log(line("(tfjs: tape, add, copies)", 0, totalSeconds - known, totalSeconds, ""));
  }
}

function line(name: string, calls: number, seconds: number, total: number, rate: string): string {
  const share = `${((100 * seconds) / total).toFixed(1).padStart(5)} %`;
  const times = calls > 0 ? `${calls} x`.padStart(8) : "".padStart(8);
  return `  ${name.padEnd(26)}${times}${(seconds * 1e3).toFixed(1).padStart(9)} ms ${share}  ${rate}`;
}
