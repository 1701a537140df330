/** A process with a pool that generates without end, to be killed: prints the model process's id once it is warm. */
import { createModelPool } from "../../../src/engine/serving/pool.ts";
import { modelProcesses } from "../../helpers/modelProcesses.ts";
import { tinyCheckpoint } from "../../helpers/tinyCheckpoint.ts";

const tiny = tinyCheckpoint({ config: { maxPositionEmbeddings: 100_000, eosTokenIds: [] } });
const pool = createModelPool({ backends: ["cpu"] });
const request = {
  promptIds: [256],
  maxTokens: 90_000,
  temperature: 1,
  topP: 1,
  seed: 2,
  stopIds: [],
  logprobs: null,
  echo: false,
};
let told = false;
for await (const event of pool.generate(tiny.checkpoint, request, new AbortController().signal)) {
  if (told || event.type !== "token") continue;
  told = true;
  tiny.remove();
  process.stdout.write(`${modelProcesses(process.pid)[0]}\n`);
}
