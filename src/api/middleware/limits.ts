/** How much the server does at once: requests in flight and streams held open are counted, and more are refused. */
import { CodedError } from "../../ops/errors.ts";

export interface Gate {
  /** @returns a function that gives the place back (once; more calls do nothing) @throws unavailable when full */
  enter(): () => void;
  readonly inside: number;
}

/** @param what named in the message: "requests" */
export function createGate(places: number, what: string): Gate {
  let inside = 0;
  return {
    get inside() {
      return inside;
    },
    enter() {
      if (inside >= places) {
        throw new CodedError("unavailable", `${places} ${what} are being served, as many as can be; try again soon`);
      }
      inside += 1;
      let left = false;
      return () => {
        if (!left) inside -= 1;
        left = true;
      };
    },
  };
}
