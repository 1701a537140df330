/** Compiles a WebAssembly module by V8's optimizing compiler, at once: its first call is as fast as its last. */
import { setFlagsFromString } from "node:v8";

/** @param extraFlags V8 flags to turn on for this compilation */
export function compileOptimized(bytes: Uint8Array<ArrayBuffer>, extraFlags: readonly string[]): WebAssembly.Module {
  const flags = [
    ...["liftoff", "wasm-lazy-compilation"].map((flag) => ({ flag, on: false })),
    ...extraFlags.map((flag) => ({ flag, on: true })),
  ];
  return withFlags(flags, () => new WebAssembly.Module(bytes));
}

/** V8's flags are of the whole process: they are turned for one synchronous compilation, and back to the default. */
function withFlags<T>(flags: readonly { flag: string; on: boolean }[], run: () => T): T {
  const set = (flag: string, on: boolean): void => setFlagsFromString(on ? `--${flag}` : `--no-${flag}`);
  for (const { flag, on } of flags) set(flag, on);
  try {
    return run();
  } finally {
    for (const { flag, on } of flags) set(flag, !on);
  }
}
