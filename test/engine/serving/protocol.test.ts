/** What a confused or hostile process could send is no message; what the two ends send is. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { parseFromChild, parseToChild } from "../../../src/engine/serving/protocol.ts";

const request = {
  promptIds: [1],
  maxTokens: 1,
  temperature: 0,
  topP: 1,
  seed: 0,
  stopIds: [],
  logprobs: null,
  echo: false,
};

test("messages of both ends are taken as they are", () => {
  for (const message of [
    { type: "load", backends: null, checkpoint: {}, cachePositions: 0, cacheDtype: "F32" },
    { type: "load", backends: ["wasm"], checkpoint: {}, cachePositions: 640, cacheDtype: "BF16" },
    { type: "generate", id: 0, request },
    { type: "cancel", id: 3 },
  ]) {
    assert.equal(parseToChild(message), message);
  }
  for (const message of [
    { type: "loaded", maxLength: 1, vocabSize: 2, memoryBytes: 3, sharesPages: true },
    { type: "failed", error: { code: "internal", message: "x" } },
    { type: "events", events: [], steps: [{ sequences: 2, tokens: 40, seconds: 0.1 }] },
    {
      type: "events",
      events: [
        { id: 1, event: { type: "cached", tokens: 7 } },
        { id: 1, event: { type: "prompt", logprobs: [null] } },
        { id: 2, event: { type: "token", id: 4, logprobs: null } },
        { id: 1, event: { type: "end", reason: "stop", stopToken: null } },
      ],
      steps: [],
    },
    { type: "error", id: 1, error: { code: "diverged", message: "x" } },
    { type: "health", rssBytes: 5 },
  ]) {
    assert.equal(parseFromChild(message), message);
  }
});

test("anything else is no message", () => {
  for (const message of [
    null,
    1,
    "load",
    [],
    {},
    { type: "__proto__" },
    { type: "load", backends: "wasm", checkpoint: {}, cachePositions: 0, cacheDtype: "F32" },
    { type: "load", backends: [1], checkpoint: {}, cachePositions: 0, cacheDtype: "F32" },
    { type: "load", backends: null, checkpoint: {}, cacheDtype: "F32" },
    { type: "load", backends: null, checkpoint: {}, cachePositions: -1, cacheDtype: "F32" },
    { type: "load", backends: null, checkpoint: {}, cachePositions: 0 },
    { type: "load", backends: null, checkpoint: {}, cachePositions: 0, cacheDtype: "F16" },
    { type: "generate", id: -1, request },
    { type: "generate", id: 0, request: null },
    { type: "generate", id: 0, request: { ...request, promptIds: "1" } },
    { type: "generate", id: 0, request: { ...request, seed: "1" } },
    { type: "cancel" },
  ]) {
    assert.equal(parseToChild(message), null, JSON.stringify(message));
  }
  for (const message of [
    undefined,
    { type: "loaded", maxLength: 1, vocabSize: NaN, memoryBytes: 3, sharesPages: true },
    { type: "loaded", maxLength: 1, vocabSize: 2, memoryBytes: 3, sharesPages: 1 },
    { type: "failed", error: { code: "made_up", message: "x" } },
    { type: "failed", error: "x" },
    { type: "events", events: [{ id: 1.5, event: { type: "token", id: 1 } }], steps: [] },
    { type: "events", events: [{ id: 1, event: { type: "token" } }], steps: [] },
    { type: "events", events: [{ id: 1, event: { type: "end", reason: "tired" } }], steps: [] },
    { type: "events", events: [{ id: 1, event: { type: "cached", tokens: -1 } }], steps: [] },
    { type: "events", events: [{ id: 1, event: null }], steps: [] },
    { type: "events", events: [null], steps: [] },
    { type: "events", events: [] },
    { type: "events", events: [], steps: [{ sequences: 1, tokens: -1, seconds: 0 }] },
    { type: "error", id: 1 },
    { type: "health", rssBytes: -1 },
    { type: "health" },
  ]) {
    assert.equal(parseFromChild(message), null, JSON.stringify(message));
  }
});
