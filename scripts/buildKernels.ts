/**
 * Compiles the C kernels of `src/engine/kernels/wasm/c` to the committed `kernels.simd128.wasm` and
 * its relaxed siblings, those of `src/engine/kernels/inference/c` to `inference.*.wasm`, both for the machine itself to
 * the shared libraries `training.avx512.so` and `inference.avx512.so`, and those of `src/engine/growth/c` to
 * `rows.wasm`: `node scripts/buildKernels.ts`. Needed only after a change of the C sources;
 * wants clang 19.1.7 and its linker (Debian 12: `apt-get install clang-19 lld-19 libclang-common-19-dev`), because another
 * compiler may give other bytes and a test holds the committed files to the sources.
 *
 * The wasm kernels run on the heap of the tfjs backend, so a module with memory of its own would overwrite tensors: a
 * function with a stack frame (-Wframe-larger-than=0) or a module with a data segment is refused here.
 */
import { execFileSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";

const kernelFolder = fileURLToPath(new URL("../src/engine/kernels/wasm/", import.meta.url));
const inferenceFolder = fileURLToPath(new URL("../src/engine/kernels/inference/", import.meta.url));
const growthFolder = fileURLToPath(new URL("../src/engine/growth/", import.meta.url));
const rowKernelName = "rows.wasm";
const compileTimeoutMs = 180_000;
/** The one that the committed files were built with. */
const compilerVersion = "19.1.7";

const languageFlags = [
  ...["-std=c17", "-ffreestanding", "-nostdlib", "-O3", "-ffp-contract=off", "-fno-math-errno"],
  ...["-Wall", "-Wextra", "-Werror", "-Wl,--strip-all"],
];
const wasmFlags = [
  ...["--target=wasm32", "-msimd128", "-mbulk-memory", "-Wframe-larger-than=0"],
  ...["-Wl,--no-entry", "-Wl,--import-memory"],
];

/** The builds: file name and the flags that make it differ. */
export const kernelBuilds = {
  "kernels.simd128.wasm": [],
  "kernels.relaxed.wasm": ["-mrelaxed-simd"],
  "kernels.relaxed256.wasm": ["-mrelaxed-simd", "-DNR=16"],
} as const satisfies Record<string, readonly string[]>;

/** The same of inference, on memory that threads share: 4 GiB at most. */
const sharedFlags = ["-matomics", "-Wl,--shared-memory", "-Wl,--max-memory=4294967296"];
export const inferenceBuilds = {
  "inference.simd128.wasm": [],
  "inference.relaxed.wasm": ["-mrelaxed-simd"],
  "inference.relaxed256.wasm": ["-mrelaxed-simd", "-DNR=16"],
} as const satisfies Record<string, readonly string[]>;

/**
 * Those for processors with AVX-512: x86-64-v4 of the psABI for x86-64. Of C's library it wants memcpy and memset,
 * which the process has, whichever library that is. The header in `machine/` stands in for WebAssembly's intrinsics.
 */
export const machineBuilds = {
  "native/training.avx512.so": kernelFolder,
  "inference/inference.avx512.so": inferenceFolder,
} as const satisfies Record<string, string>;
const machineFlags = [
  ...[
    "--target=x86_64-unknown-linux-gnu",
    "-march=x86-64-v4",
    "-mprefer-vector-width=512",
    "-DNR=16",
    "-I../../machine",
  ],
  ...["-fPIC", "-fvisibility=hidden", "-shared", "-Wl,--build-id=none"],
];

/** @returns null when the compiler is there, else what is missing. */
export function missingCompiler(): string | null {
  const versionOf = (program: string): string => {
    try {
      return execFileSync(program, ["--version"], { encoding: "utf8", timeout: 10_000 });
    } catch {
      return "";
    }
  };
  const missing = ["clang-19", "wasm-ld-19"].filter((program) => !versionOf(program).includes(compilerVersion));
  return missing.length === 0
    ? null
    : `${missing.join(" and ")} ${compilerVersion} (Debian: clang-19, lld-19) not found`;
}

/** @returns the bytes of one build, compiled from the sources as they are now. */
export function compileKernels(name: keyof typeof kernelBuilds): Buffer {
  return compileWasm(kernelFolder, name, kernelBuilds[name]);
}

/** @returns the bytes of one build of the kernels of inference, compiled from the sources as they are now. */
export function compileInference(name: keyof typeof inferenceBuilds): Buffer {
  return compileWasm(inferenceFolder, name, [...sharedFlags, ...inferenceBuilds[name]]);
}

/** @returns the bytes of one build for AVX-512, compiled from the sources as they are now. */
export function compileMachine(name: keyof typeof machineBuilds): Buffer {
  return compile(machineBuilds[name], basename(name), machineFlags, ["../../machine/address.c"]);
}

/** @returns the bytes of the kernel that builds rows of grown matrices, compiled from its source as it is now. */
export function compileRowKernel(): Buffer {
  return compileWasm(growthFolder, rowKernelName, []);
}

function compileWasm(folder: string, name: string, ownFlags: readonly string[]): Buffer {
  const bytes = compile(folder, name, [...wasmFlags, ...ownFlags]);
  refuseOwnMemory(name, bytes);
  return bytes;
}

function compile(folder: string, name: string, ownFlags: readonly string[], more: readonly string[] = []): Buffer {
  const sources = readdirSync(join(folder, "c"))
    .filter((file) => file.endsWith(".c"))
    .sort();
  const scratch = mkdtempSync(join(tmpdir(), "kernels-"));
  try {
    const output = join(scratch, name);
    const flags = [...languageFlags, ...ownFlags, "-fuse-ld=lld", "-o", output];
    const options = { cwd: join(folder, "c"), stdio: "inherit", timeout: compileTimeoutMs } as const;
    execFileSync("clang-19", [...flags, ...sources, ...more], options);
    return readFileSync(output);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

/** Id of the data section in the WebAssembly binary format, 5.5.2. */
const dataSection = 11;

function refuseOwnMemory(name: string, bytes: Uint8Array): void {
  let at = 8; // magic and version
  while (at < bytes.length) {
    if (bytes[at++] === dataSection) throw new Error(`${name} has a data segment; kernels may own no memory`);
    let size = 0;
    for (let shift = 0, more = true; more; shift += 7) {
      const byte = bytes[at++] ?? 0;
      size += (byte & 0x7f) * 2 ** shift;
      more = byte >= 0x80;
    }
    at += size;
  }
}

if (import.meta.main) {
  const missing = missingCompiler();
  if (missing !== null) throw new Error(missing);
  const write = (path: string, bytes: Buffer): void => {
    writeFileSync(path, bytes);
    console.log(`${path} ${bytes.length} bytes`);
  };
  for (const name of Object.keys(kernelBuilds) as (keyof typeof kernelBuilds)[]) {
    write(join(kernelFolder, name), compileKernels(name));
  }
  for (const name of Object.keys(inferenceBuilds) as (keyof typeof inferenceBuilds)[]) {
    write(join(inferenceFolder, name), compileInference(name));
  }
  for (const name of Object.keys(machineBuilds) as (keyof typeof machineBuilds)[]) {
    write(join(kernelFolder, "..", name), compileMachine(name));
  }
  write(join(growthFolder, rowKernelName), compileRowKernel());
}
