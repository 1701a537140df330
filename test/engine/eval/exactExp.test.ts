import assert from "node:assert/strict";
import { test } from "node:test";
import { exactExp } from "../../../src/engine/eval/exactExp.ts";

test("values equal CPython's math.exp to the last bit", () => {
  // printed by CPython 3.11 (glibc)
  const known: readonly [number, number][] = [
    [-1.7527751838045664, 0.1732923573709537],
    [-539.7192077330259, 4.0079870012445754e-235],
    [17.16996905463304, 28630096.69967008],
    [20.38171694714501, 710668722.3178226],
    [108.53525141483783, 1.3685503543625992e47],
    [-474.43687321224024, 9.009152792655581e-207],
    [20.186609161444856, 584699829.4424254],
    [11.529565049998201, 101677.87939774668],
    [409.3477937004709, 5.990843621502311e177],
    [-633.2549439905893, 9.569124100880848e-276],
    [1, 2.718281828459045],
    [-0.5, 0.6065306597126334],
    [2.5, 12.182493960703473],
    [13.37, 640497.1816019283],
    [-650.25, 3.9811921806329143e-283],
    [700.5, 1.6721859620674984e304],
  ];
  for (const [x, expected] of known) assert.equal(exactExp(x), expected, String(x));
});

test("the ends of the range are those of the function", () => {
  assert.equal(exactExp(0), 1);
  assert.equal(exactExp(1000), Number.POSITIVE_INFINITY);
  assert.equal(exactExp(-1000), 0);
  assert.ok(Number.isNaN(exactExp(Number.NaN)));
});
