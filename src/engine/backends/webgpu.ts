/**
 * The backend `webgpu`: tfjs on a GPU through Dawn, with WGSL kernels. `auto` takes it before all others where there
 * is a real GPU; a software adapter (Mesa's llvmpipe, SwiftShader) is slower than `wasm` and taken by name only,
 * unless the settings say otherwise.
 *
 * Probing: which adapters there are is found out in a process of its own, once. Where nothing but a software
 * adapter is possible, a probe that is not asked to measure spares that and tells what the machine's files tell.
 */
import { execFile } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { createRequire } from "node:module";
import { totalmem } from "node:os";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import type { Backend, BackendOptions, BackendProbe } from "./backend.ts";
import { createTfjsBackend } from "./tfjsBackend.ts";
import { chooseAdapter, defaultWebgpuOptions, type AdapterFacts, type WebgpuOptions } from "./webgpuDevice.ts";
import type { MatricesDecision } from "./webgpuMatrices.ts";
import type { ProbeReport } from "./webgpuProbe.ts";

/** A driver that has not answered by then is given up. */
const probeTimeoutMs = 90_000;
/** Share of the machine's memory that a software adapter's tensors may take. */
const memoryShare = 0.5;
const probeEntry = fileURLToPath(new URL("./webgpuProbe.ts", import.meta.url));
const driverAdvice = "a Vulkan driver is wanted (on Debian mesa-vulkan-drivers and libvulkan1, or the GPU vendor's)";

/** @returns the backend; nothing is started. */
export function createWebgpuBackend({ webgpu = defaultWebgpuOptions }: BackendOptions = {}): Backend {
  return createTfjsBackend({
    name: "webgpu",
    description: "a GPU through WebGPU (Vulkan, Metal or Direct3D 12)",
    preference: 30,
    probe: webgpuProbe(webgpu),
    compute: {
      ...{
        tfjs: "webgpu",
        kernels: "webgpu",
        precisions: { mixed_f16: "webgpu-f16" } as const,
        variant: null,
        threads: 1,
        webgpu,
      },
      memoryBytes: webgpu.memoryBytes ?? null,
    },
  });
}

/** Reports by what they were asked with; of this process, because the answer is the machine's. */
const reports = new Map<string, Promise<Found>>();

interface Found {
  readonly report: ProbeReport;
  readonly halves: MatricesDecision;
}

function webgpuProbe(options: WebgpuOptions): Backend["probe"] {
  return async ({ measure = false } = {}) => {
    const missing = missingFiles();
    if (missing !== null) return unavailable(missing);
    if (!measure && !mayHaveGpu()) return unmeasured(options);
    const asked = JSON.stringify({ ...options, measure });
    const { report, halves } = await (reports.get(asked) ?? startProbe(asked));
    if ("error" in report) return unavailable(report.error);
    try {
      return described(
        chooseAdapter(report.adapters, (one) => one, options),
        options,
        halves,
      );
    } catch (error) {
      return unavailable(error instanceof Error ? error.message : String(error));
    }
  };
}

function startProbe(asked: string): Promise<Found> {
  const started = promisify(execFile)(process.execPath, [probeEntry, asked], { timeout: probeTimeoutMs })
    .then(({ stdout }) => foundIn(stdout, "nothing was tried yet"))
    .catch((error: Error & { signal?: string | null; code?: unknown; stdout?: string }): Found => {
      const how = error.signal ? `was ended by ${error.signal}` : `ended with code ${String(error.code)}`;
      return foundIn(error.stdout ?? "", `the process that tried matrices of subgroups ${how}`, how);
    });
  reports.set(asked, started);
  return started;
}

/** What a probe printed: adapters, and where it came so far how they multiply halves. */
function foundIn(stdout: string, untried: string, how = "printed nothing"): Found {
  const [first = "", second = ""] = stdout.split("\n");
  const failure = `looking for GPUs failed: the process ${how}; a driver of this machine does not work`;
  const report = first === "" ? { error: failure } : (JSON.parse(first) as ProbeReport);
  const halves = second === "" ? null : (JSON.parse(second) as MatricesDecision | null);
  return { report, halves: halves ?? { kernels: "webgpu-f16", reason: untried } };
}

/** How mixed_f16 multiplies, and why. */
function productsOf({ kernels, reason }: MatricesDecision): Record<string, string> {
  const products = kernels === "webgpu-matrices-f16" ? "matrices of subgroups" : "plain";
  return { mixed_f16_products: products, mixed_f16_products_reason: reason };
}

function unavailable(reason: string): BackendProbe {
  return { available: false, reason, device: null, features: {}, memoryBytes: null };
}

function described(adapter: AdapterFacts, options: WebgpuOptions, halves: MatricesDecision): BackendProbe {
  const { name, vendor, architecture, description, software, features, subgroups } = adapter;
  const { maxBufferBytes, maxBindingBytes, workgroupBytes } = adapter;
  const noF16 = features.includes("shader-f16") ? null : `${name} computes with no 16-bit floats (no shader-f16)`;
  return {
    ...{ available: true, reason: null, device: name },
    automatic: !software || options.software === "auto",
    features: {
      ...{ vendor, architecture, driver: description, software, features: features.join(" ") },
      ...{ subgroup_min_size: subgroups[0], subgroup_max_size: subgroups[1] },
      ...{ max_buffer_bytes: maxBufferBytes, max_binding_bytes: maxBindingBytes, workgroup_bytes: workgroupBytes },
      ...(noF16 === null ? { mixed_f16: true, ...productsOf(halves) } : { mixed_f16: false, mixed_f16_reason: noF16 }),
    },
    precisions: { mixed_f16: noF16 === null ? null : `precision mixed_f16: ${noF16}` },
    memoryBytes: options.memoryBytes ?? (software ? Math.floor(totalmem() * memoryShare) : null),
  };
}

/** What is said of a machine on which only a software adapter can be, without starting it. */
function unmeasured(options: WebgpuOptions): BackendProbe {
  const { software, memoryBytes } = options;
  if (software === "never") return unavailable("there is no GPU device here, and WEBGPU_SOFTWARE is never");
  return {
    ...{ available: true, reason: null, device: "software adapter" },
    automatic: software === "auto",
    features: { software: true },
    // Not known; where the adapter cannot, the job says so when it begins.
    precisions: { mixed_f16: null },
    memoryBytes: memoryBytes ?? Math.floor(totalmem() * memoryShare),
  };
}

/** What a machine lacks that can be seen in its files; null where nothing is known to be missing. */
function missingFiles(): string | null {
  try {
    createRequire(import.meta.url).resolve("@tensorflow/tfjs-backend-webgpu");
  } catch {
    return "the package @tensorflow/tfjs-backend-webgpu is not installed; npm ci installs it";
  }
  if (process.platform !== "linux") return null;
  const loaders = ["/usr/lib", "/usr/lib64", "/lib", "/usr/local/lib", `/usr/lib/${process.arch}-linux-gnu`];
  const triplets = { x64: "x86_64-linux-gnu", arm64: "aarch64-linux-gnu" } as Partial<Record<string, string>>;
  const folders = [...loaders, `/usr/lib/${triplets[process.arch] ?? ""}`];
  if (folders.some((folder) => existsSync(`${folder}/libvulkan.so.1`))) return null;
  return `the Vulkan loader libvulkan.so.1 is not here: ${driverAdvice}`;
}

/** Whether the machine shows a GPU to its processes; systems other than Linux always may. */
function mayHaveGpu(): boolean {
  if (process.platform !== "linux") return true;
  if (existsSync("/dev/nvidiactl") || existsSync("/dev/dxg")) return true;
  return existsSync("/dev/dri") && readdirSync("/dev/dri").some((name) => name.startsWith("renderD"));
}
