/**
 * WGSL programs as data: a name, its buffers, its numbers and its body. The declarations that the body relies on are
 * written here, in one way for all, so that a body only computes. Sizes are numbers of the program and not constants
 * of its text: one pipeline serves all shapes, because compiling one takes longer than running it.
 */

/** A storage buffer of a program: what WGSL calls it, the type of its elements, and whether it is written. */
export interface BufferSpec {
  readonly name: string;
  /** `f32` unless given. */
  readonly element?: "f32" | "i32" | "vec4f";
  /** Only read unless given. */
  readonly write?: boolean;
}

export interface Program {
  /** Unique among programs. */
  readonly name: string;
  readonly buffers: readonly BufferSpec[];
  /** Numbers that every run gives, by name and type, read in the body as `p.name`. */
  readonly numbers: readonly (readonly [name: string, type: "u32" | "f32"])[];
  /** The whole WGSL text; its entry is `main`. */
  readonly code: string;
}

export interface ProgramText extends Omit<Program, "code"> {
  /** Lines before all declarations, such as `enable f16;`. */
  readonly enable?: string;
  readonly body: string;
}

/** @returns the program, with the declarations of its buffers and numbers in front of its body. */
export function defineProgram({ enable = "", body, ...program }: ProgramText): Program {
  const buffers = program.buffers.map(({ name, element = "f32", write }, binding) => {
    const access = write ? "read_write" : "read";
    return `@group(0) @binding(${binding}) var<storage, ${access}> ${name}: array<${element}>;`;
  });
  const fields = program.numbers.map(([name, type]) => `  ${name}: ${type},`).join("\n");
  const numbers = `struct Numbers {\n${fields}\n}\n@group(0) @binding(${buffers.length}) var<uniform> p: Numbers;`;
  return { ...program, code: [enable, ...buffers, numbers, body].join("\n") };
}

/** @returns the lines that `line` gives for 0 .. count - 1: an unrolled loop. */
export function unrolled(count: number, line: (index: number) => string): string {
  return Array.from({ length: count }, (_, index) => line(index)).join("\n");
}

/** Workgroups in one dimension, at most, on every device. */
const maxGroups = 65_535;

/** @returns a grid of at least `groups` workgroups; the program finds its number by `groupIndex`. */
export function gridOf(groups: number): [number, number] {
  if (groups <= maxGroups) return [Math.max(1, groups), 1];
  const height = Math.ceil(groups / maxGroups);
  return [Math.ceil(groups / height), height];
}

/** WGSL for the number of a workgroup of a `gridOf`, given the builtins `group` and `groups`. */
export const groupIndex = "group.y * groups.x + group.x";

/** The arguments of an entry that uses a `gridOf`. */
export const gridArguments = `@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32`;

/**
 * WGSL of `sumOfGroup(lane, value)`: the sum over a workgroup of `size` (a power of two), the same for all its
 * invocations and always added in the same order.
 */
export function groupSum(size: number): string {
  return groupReduce("sumOfGroup", size, "sums", (a, b) => `${a} + ${b}`);
}

/** WGSL of `maxOfGroup(lane, value)`. It may pass over a NaN: what is made of the maximum carries it anyway. */
export function groupMax(size: number): string {
  return groupReduce("maxOfGroup", size, "maxima", (a, b) => `max(${a}, ${b})`);
}

function groupReduce(name: string, size: number, shared: string, join: (a: string, b: string) => string): string {
  return `var<workgroup> ${shared}: array<f32, ${size}>;
fn ${name}(lane: u32, value: f32) -> f32 {
  ${shared}[lane] = value;
  workgroupBarrier();
  for (var half = ${size / 2}u; half > 0u; half >>= 1u) {
    if (lane < half) {
      let a = ${shared}[lane];
      let b = ${shared}[lane + half];
      ${shared}[lane] = ${join("a", "b")};
    }
    workgroupBarrier();
  }
  let result = ${shared}[0];
  workgroupBarrier();
  return result;
}`;
}
