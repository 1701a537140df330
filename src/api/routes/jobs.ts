/** Jobs: looking at them and steering them; trainings are begun here too. Their history is in jobHistory.ts. */
import type { RouteDeps } from "../deps.ts";
import type { HandlersOf } from "../handlers.ts";
import { workersFor, type JobAnswers } from "../jobAnswers.ts";
import { presentJob, presentPage } from "../present.ts";

export function createJobHandlers(
  deps: RouteDeps,
  answers: JobAnswers,
): HandlersOf<"createTraining" | "listJobs" | "getJob" | "cancelJob" | "pauseJob" | "resumeJob"> {
  const { jobs } = deps.store;
  return {
    createTraining: (call) => answers.submit("training", call.body, call),
    async listJobs({ query }) {
      const page = await jobs.list(query);
      const workers = await workersFor(page.rows, deps.store);
      return { status: 200, body: presentPage(page, (row) => presentJob(row, workers)) };
    },
    async getJob({ path }) {
      const row = await jobs.get(path.id);
      return { status: 200, body: presentJob(row, await workersFor([row], deps.store)) };
    },
    async cancelJob(call) {
      return answers.answer(await deps.queue.cancel(call.path.id), call);
    },
    async pauseJob(call) {
      return answers.answer(await deps.queue.pause(call.path.id), call);
    },
    async resumeJob(call) {
      return answers.answer(await deps.queue.resume(call.path.id), call);
    },
  };
}
