/**
 * Threads that compute one thing together: every part of every `each` is done once, whoever comes late, and nobody goes
 * on before all are done; in real threads, on shared memory, over the end of the numbers that programs count by.
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import { describe, test } from "node:test";
import { Worker } from "node:worker_threads";
import { TeamMember, controlWords, mostParts } from "../../../../src/engine/kernels/inference/team.ts";

/** Parts of the pieces of work of a program: fewer than there are threads, as many as there may be. */
const pieces = [1, 2, 3, 64, 7, mostParts, 5];
const programs = 40;
const counts = pieces.reduce((sum, parts) => sum + parts, 0);

/** What every thread runs: each part is counted, and sees all parts of the piece before counted for this program. */
function run(member: TeamMember, counted: Int32Array, done: number, pause: (piece: number) => void): void {
  let at = 0;
  pieces.forEach((parts, piece) => {
    pause(piece);
    const [first, before] = [at, piece === 0 ? 0 : pieces[piece - 1]!];
    member.each(parts, (part) => {
      for (let i = first - before; i < first; i++) {
        if (Atomics.load(counted, i) !== done + 1) throw new Error(`part ${i} was not done before piece ${piece}`);
      }
      Atomics.add(counted, first + part, 1);
    });
    at += parts;
  });
}

/** The source of a helper thread, which runs every program that it is in time for. */
const helperSource = `
  import { workerData, parentPort } from "node:worker_threads";
  const { TeamMember } = await import(workerData.team);
  const pieces = ${JSON.stringify(pieces)};
  const run = ${run.toString()};
  const { control, inputs, counted, threads, thread } = workerData;
  const member = new TeamMember(control, threads, thread);
  const nap = new Int32Array(new SharedArrayBuffer(4));
  parentPort.postMessage("ready");
  let programs = 0;
  member.follow(
    () => [...inputs],
    ([first]) => first,
    ([, done]) => {
      programs++;
      // The last thread comes late to every third program, in the middle of it.
      run(member, counted, done, (piece) => {
        if (thread === threads - 1 && programs % 3 === 0 && piece === 4) Atomics.wait(nap, 0, 0, 5);
      });
    },
  );
`;

async function withTeam(
  threads: number,
  firstNumber: number,
  use: (member: TeamMember, inputs: Int32Array, counted: Int32Array) => void,
): Promise<void> {
  const shared = (words: number): Int32Array => new Int32Array(new SharedArrayBuffer(words * 4));
  const [control, inputs, counted] = [shared(controlWords), shared(2), shared(counts)];
  control[0] = firstNumber;
  control.fill(firstNumber, controlWords - mostParts);
  const team = new URL("../../../../src/engine/kernels/inference/team.ts", import.meta.url).href;
  const source = new URL(`data:text/javascript,${encodeURIComponent(helperSource)}`);
  const helpers: Worker[] = [];
  try {
    for (let thread = 1; thread < threads; thread++) {
      const helper = new Worker(source, { workerData: { team, control, inputs, counted, threads, thread } });
      helpers.push(helper);
      await once(helper, "message", { signal: AbortSignal.timeout(20_000) });
    }
    use(new TeamMember(control, threads, 0), inputs, counted);
  } finally {
    await Promise.all(helpers.map((helper) => helper.terminate()));
  }
}

/** Leads `programs` programs and asserts that each counted every part once. */
function leadAll(member: TeamMember, inputs: Int32Array, counted: Int32Array): void {
  for (let program = 0; program < programs; program++) {
    const write = (first: number): void => inputs.set([first, program]);
    member.lead(write, () => run(member, counted, program, () => {}));
    assert.ok(
      counted.every((count) => count === program + 1),
      `program ${program}: a part was done ${Math.min(...counted)} to ${Math.max(...counted)} times`,
    );
  }
}

describe("threads that compute together", { timeout: 60_000 }, () => {
  for (const threads of [1, 2, 3, 5]) {
    test(`${threads}: every part is done once, and none before all parts of the piece before it`, async () => {
      await withTeam(threads, 0, leadAll);
    });
  }

  test("so it is where the numbers of pieces wrap around", async () => {
    await withTeam(3, 2 ** 31 - 100, leadAll);
  });

  test("a part that fails is told to the leader, wherever it was taken, and the next program works", async () => {
    await withTeam(2, 0, (member, inputs, counted) => {
      // As if program 1 were the first: no part finds its predecessors counted.
      const early = (first: number): void => inputs.set([first, 1]);
      assert.throws(
        () => member.lead(early, () => run(member, counted, 1, () => {})),
        /was not done|failed in its part/,
      );
      counted.fill(0);
      leadAll(member, inputs, counted);
    });
  });

  test("a program that the first thread does alone is told to nobody, and the others are there for the next", async () => {
    await withTeam(2, 0, (member, inputs, counted) => {
      const write = (): void => assert.fail("the inputs of a program done alone are not published");
      member.lead(write, () => run(member, counted, 0, () => {}), true);
      assert.ok(counted.every((count) => count === 1));
      counted.fill(0);
      leadAll(member, inputs, counted);
    });
  });

  test("a program that the first thread leaves before its end leaves no next one with wrong numbers", async () => {
    await withTeam(2, 0, (member, inputs) => {
      const write = (first: number): void => inputs.set([first, 0]);
      const leave = (): never => {
        throw new RangeError("between two parts");
      };
      assert.throws(() => member.lead(write, leave), RangeError);
      assert.throws(
        () => member.lead(write, () => assert.fail("it was run")),
        (error: Error) => /out of step/.test(error.message) && error.cause instanceof RangeError,
      );
    });
  });

  test("claims of parts that no piece has had for long are renewed before their numbers could be mistaken", () => {
    const control = new Int32Array(controlWords);
    const member = new TeamMember(control, 2, 0);
    const spend = (pieces: number): void => {
      for (let i = 0; i < pieces; i++) member.each(1, () => {});
    };
    const ignore = (): void => {};
    member.lead(ignore, () => spend(2 ** 24 - 1));
    member.lead(ignore, () => spend(1));
    assert.equal(control.at(-1), 0);
    member.lead(ignore, ignore);
    assert.equal(control.at(-1), 2 ** 24);
  });
});
