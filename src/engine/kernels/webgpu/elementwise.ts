/** What the elementwise programs share: one element for each invocation, in a grid that any number of them fits. */
import { gridOf, groupIndex } from "./program.ts";

const size = 64;

/** The entry of an elementwise program: `statements` for element `i` of `count`. */
export function eachElement(count: string, statements: string): string {
  return `
@compute @workgroup_size(${size})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32) {
  let i = (${groupIndex}) * ${size}u + lane;
  if (i >= ${count}) { return; }
  ${statements}
}`;
}

export function elementGrid(count: number): [number, number] {
  return gridOf(Math.ceil(count / size));
}
