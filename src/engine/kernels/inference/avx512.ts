/**
 * The kernels of inference that cost the time, built from the same C sources for the machine itself: vectors twice as
 * wide as WebAssembly's widest, and weights asked for before they are needed. Called in place on the shared memory
 * through koffi. The operations on each number are those of the build `relaxed256`, so are the bytes; `build.ts`
 * takes them for the backend `native` where a trial finds it so.
 */
import { fileURLToPath } from "node:url";
import { openMachineLibrary } from "../machine/avx512.ts";
import type { InferenceFunctions } from "./module.ts";

/** The functions that there are; sizes of panels and pages are those of `relaxed256`. */
export type MachineFunctions = Pick<
  InferenceFunctions,
  | "panel_most_rows"
  | "panel_scratch_floats"
  | "panel_turn"
  | "panel_product"
  | "paged_attention"
  | "row_blocks"
  | "swiglu_rows"
>;

const libraryFile = fileURLToPath(new URL("./inference.avx512.so", import.meta.url));

/**
 * @param memory whose addresses the functions take; shared, so it never moves
 * @param file the library, another than the one of this package in tests alone
 * @throws backend_unavailable when the processor, koffi or the library is not there or does not load
 */
export async function loadAvx512(memory: WebAssembly.Memory, file = libraryFile): Promise<MachineFunctions> {
  const { addressOf, bind } = await openMachineLibrary(file);
  const base = addressOf(memory);
  const turn = bind("void", "panelTurn", "iiipip");
  const product = bind("void", "panelProduct", "iiiipppip");
  const attention = bind("void", "pagedAttention", "iiiiiiiiipppippipppip");
  const swiglu = bind("void", "swigluRows", "iippi");
  const blocks = bind("void", "rowBlocks", "idppp");
  return {
    panel_most_rows: bind("int", "panelMostRows", ""),
    panel_scratch_floats: bind("int", "panelScratchFloats", ""),
    panel_turn: (rows, i, wide, x, ldx, to) => turn(rows, i, wide, base + x, ldx, base + to),
    panel_product: (rows, panels, i, wide, x, w, y, ldy, sums) =>
      product(rows, panels, i, wide, base + x, base + w, base + y, ldy, base + sums),
    paged_attention: (
      t,
      kvs,
      heads,
      h,
      offset,
      kv,
      all,
      layer,
      wide,
      at,
      pages,
      q,
      ldq,
      k,
      v,
      ldk,
      cos,
      sin,
      y,
      ldy,
      room,
    ) =>
      attention(
        ...([t, kvs, heads, h, offset, kv, all, layer, wide, base + at!, base + pages!, base + q!, ldq] as number[]),
        ...([base + k!, base + v!, ldk, base + cos!, base + sin!, base + y!, ldy, base + room!] as number[]),
      ),
    swiglu_rows: (rows, size, gate, up, ld) => swiglu(rows, size, base + gate, base + up, ld),
    row_blocks: (size, scale, x, maxima, sums) => blocks(size, scale, base + x, base + maxima, base + sums),
  };
}
