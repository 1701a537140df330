/** Jobs: looking at them and steering them; trainings are begun here too. Their history is in jobHistory.ts. */
import type { RouteDeps } from "../deps.ts";
import type { HandlersOf } from "../handlers.ts";
import type { JobAnswers } from "../jobAnswers.ts";
import { presentJob, presentPage } from "../present.ts";

export function createJobHandlers(
  deps: RouteDeps,
  answers: JobAnswers,
): HandlersOf<"createTraining" | "listJobs" | "getJob" | "cancelJob" | "pauseJob" | "resumeJob"> {
  const { jobs } = deps.store;
  return {
    createTraining: (call) => answers.submit("training", call.body, call),
    async listJobs({ query }) {
      return { status: 200, body: presentPage(await jobs.list(query), presentJob) };
    },
    async getJob({ path }) {
      return { status: 200, body: presentJob(await jobs.get(path.id)) };
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
