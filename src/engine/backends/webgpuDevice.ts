/**
 * Opening a GPU: Dawn's WebGPU for Node (the package `webgpu`), the adapters that it finds, and a device with
 * everything that an adapter can do. The only file that imports that package, and only when it is called: a driver
 * that crashes must not take the server with it, so it is called in compute processes and in the probe's own.
 */
import { CodedError } from "../../ops/errors.ts";
import type { MatrixConfig } from "../kernels/webgpu/matrixOps.ts";

/** What the settings say about GPUs. */
export interface WebgpuOptions {
  /** Part of the name of the adapter to use; null for the fastest. */
  readonly adapter: string | null;
  /** Whether a software adapter may be used: where the backend is asked for by name, by `auto` too, or never. */
  readonly software: "named" | "auto" | "never";
  /** Bytes that tensors may take on it; null where nobody says, which no driver does. */
  readonly memoryBytes: number | null;
  /** Whether products of halves go by matrices of subgroups; auto unless given: where they are faster. */
  readonly matrices?: "auto" | "always" | "never";
}

export const defaultWebgpuOptions: WebgpuOptions = { adapter: null, software: "named", memoryBytes: null };

/** Features asked for where an adapter has them. */
const wantedFeatures = [
  "shader-f16",
  "subgroups",
  "subgroup-size-control",
  "timestamp-query",
  "chromium-experimental-subgroup-matrix",
] as const;

/** NVIDIA's driver has 16-bit floats that Dawn does not offer unasked; matrices of subgroups are experimental in it. */
const dawnFeatures = "enable-dawn-features=allow_unsafe_apis,vulkan_enable_f16_on_nvidia";

/** What is known of an adapter; plain data. */
export interface AdapterFacts {
  readonly name: string;
  readonly vendor: string;
  readonly architecture: string;
  /** Driver and version, where the driver tells. */
  readonly description: string;
  /** It computes on the processor. */
  readonly software: boolean;
  readonly features: readonly string[];
  readonly maxBufferBytes: number;
  readonly maxBindingBytes: number;
  readonly workgroupBytes: number;
  /** Smallest and largest width of a subgroup; 0 when unknown. */
  readonly subgroups: readonly [number, number];
}

interface OpenedGpu {
  readonly gpu: GPU;
  readonly globals: object;
}

async function openGpu(): Promise<OpenedGpu> {
  try {
    const { create, globals } = await import("webgpu");
    return { gpu: create([dawnFeatures]), globals };
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new CodedError("backend_unavailable", `the package webgpu does not load: ${reason}`, { cause });
  }
}

/** @returns the adapters that Dawn offers, the one it prefers first, each once. */
async function findAdapters({ gpu, globals }: OpenedGpu): Promise<GPUAdapter[]> {
  Object.assign(globalThis, globals);
  const asked: GPURequestAdapterOptions[] = [
    { powerPreference: "high-performance" },
    { powerPreference: "low-power" },
    { forceFallbackAdapter: true },
  ];
  const found = new Map<string, GPUAdapter>();
  for (const options of asked) {
    const adapter = await gpu.requestAdapter(options);
    if (adapter && !found.has(adapter.info.device)) found.set(adapter.info.device, adapter);
  }
  return [...found.values()];
}

export function factsOf(adapter: GPUAdapter): AdapterFacts {
  const { info, limits, features } = adapter;
  const { device, vendor, architecture, description } = info;
  return {
    ...{ vendor, architecture, description },
    name: device || description || vendor || "unnamed adapter",
    software: info.isFallbackAdapter || architecture === "software" || /llvmpipe|swiftshader/i.test(device),
    features: wantedFeatures.filter((feature) => features.has(feature)),
    maxBufferBytes: limits.maxBufferSize,
    maxBindingBytes: limits.maxStorageBufferBindingSize,
    workgroupBytes: limits.maxComputeWorkgroupStorageSize,
    subgroups: [info.subgroupMinSize ?? 0, info.subgroupMaxSize ?? 0],
  };
}

/** @returns the sizes and types of matrices of subgroups that an adapter offers; none unless it has that feature */
export function matrixConfigsOf({ info }: Pick<GPUAdapter, "info">): MatrixConfig[] {
  const { subgroupMatrixConfigs = [] } = info as GPUAdapterInfo & { subgroupMatrixConfigs?: Iterable<MatrixConfig> };
  return [...subgroupMatrixConfigs].map(({ componentType, resultComponentType, M, N, K }) => {
    return { componentType, resultComponentType, M, N, K };
  });
}

/** @returns what there is to choose from, the preferred first. @throws backend_unavailable */
export async function listAdapters(): Promise<AdapterFacts[]> {
  return (await findAdapters(await openGpu())).map(factsOf);
}

/**
 * @returns the adapter that the options ask for
 * @throws backend_unavailable naming what there is
 */
export function chooseAdapter<T>(adapters: readonly T[], facts: (one: T) => AdapterFacts, options: WebgpuOptions): T {
  const { adapter: wanted, software } = options;
  const names = adapters.map((one) => JSON.stringify(facts(one).name)).join(", ");
  const matches = adapters.filter((one) => {
    const { name, vendor, description } = facts(one);
    return wanted === null || `${name} ${vendor} ${description}`.toLowerCase().includes(wanted.toLowerCase());
  });
  const usable = matches.filter((one) => software !== "never" || !facts(one).software);
  const chosen = usable.find((one) => !facts(one).software) ?? usable[0];
  if (chosen) return chosen;
  const fail = (message: string): CodedError => new CodedError("backend_unavailable", message);
  if (adapters.length === 0) throw fail("no GPU driver offers an adapter: WebGPU wants Vulkan, Metal or Direct3D 12");
  if (matches.length === 0) throw fail(`WEBGPU_ADAPTER asks for ${JSON.stringify(wanted)}; there are ${names}`);
  throw fail(`WEBGPU_SOFTWARE is never, and there are only software adapters: ${names}`);
}

export interface OpenedDevice {
  readonly gpu: GPU;
  readonly adapter: GPUAdapter;
  readonly device: GPUDevice;
}

/**
 * Opens a device with the adapter's own limits, and makes WebGPU's names global, as tfjs expects them.
 * @throws backend_unavailable
 */
export async function openDevice(options: WebgpuOptions): Promise<OpenedDevice> {
  return (await openAdapter(options)).open();
}

/** As `openDevice`, in two steps: an adapter tells much before a device is opened. @throws backend_unavailable */
export async function openAdapter(
  options: WebgpuOptions,
): Promise<{ readonly adapter: GPUAdapter; open(): Promise<OpenedDevice> }> {
  const opened = await openGpu();
  const adapter = chooseAdapter(await findAdapters(opened), factsOf, options);
  return { adapter, open: () => deviceOf(opened, adapter) };
}

/** Dawn's own object by device: it must outlive what was opened through it, or the process dies. */
const instances = new WeakMap<GPUDevice, GPU>();

async function deviceOf(opened: OpenedGpu, adapter: GPUAdapter): Promise<OpenedDevice> {
  const requiredFeatures = wantedFeatures.filter((feature) => adapter.features.has(feature)) as GPUFeatureName[];
  try {
    const device = await adapter.requestDevice({ requiredFeatures, requiredLimits: limitsOf(adapter) });
    instances.set(device, opened.gpu);
    return { gpu: opened.gpu, adapter, device };
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new CodedError("backend_unavailable", `${factsOf(adapter).name} gives no device: ${reason}`, { cause });
  }
}

/** The limits that kernels meet; the defaults are those of phones. */
function limitsOf({ limits }: GPUAdapter): Record<string, number> {
  const names = [
    ...["maxBufferSize", "maxStorageBufferBindingSize", "maxStorageBuffersPerShaderStage"],
    ...["maxComputeWorkgroupStorageSize", "maxComputeInvocationsPerWorkgroup", "maxComputeWorkgroupSizeX"],
    ...["maxComputeWorkgroupSizeY", "maxComputeWorkgroupSizeZ", "maxComputeWorkgroupsPerDimension"],
  ] as const;
  return Object.fromEntries(names.map((name) => [name, limits[name as keyof GPUSupportedLimits] as number]));
}
