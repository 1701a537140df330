/** Errors cross processes whole, never carry the text of a bug to a user, and tell an operator their causes. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { CodedError, describeFailure, fromErrorRecord, toErrorRecord } from "../../src/ops/errors.ts";

test("a coded error crosses a process boundary with its code, message, fields and details", () => {
  const fields = [{ pointer: "/a", detail: "is wrong" }];
  const error = new CodedError("unprocessable", "a is wrong", {
    fields,
    details: { got: 1 },
    cause: new Error("private"),
  });
  const record = toErrorRecord(error);
  assert.equal(JSON.stringify(record).includes("private"), false);
  const back = fromErrorRecord(JSON.parse(JSON.stringify(record)));
  assert.deepEqual(
    [back.code, back.message, back.fields, back.details],
    ["unprocessable", "a is wrong", fields, { got: 1 }],
  );
});

test("any other error becomes `internal`, without its text", () => {
  assert.deepEqual(Object.keys(toErrorRecord(new TypeError("secret path"))), ["code", "message"]);
  assert.equal(toErrorRecord(new TypeError("secret path")).message.includes("secret"), false);
});

test("an operator is told the causes of a failure, and an endless chain of them is cut", () => {
  const cause = new Error("relation exists", { cause: new Error("42P07") });
  const text = describeFailure(new CodedError("store_unavailable", "the database does not open", { cause }));
  assert.equal(text, "store_unavailable: the database does not open\n  because: relation exists\n  because: 42P07");
  const loop = new Error("again");
  loop.cause = loop;
  assert.equal(describeFailure(new CodedError("internal", "x", { cause: loop })).split("\n").length, 6);
});
