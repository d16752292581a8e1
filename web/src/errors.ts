/** Why a picture is shown as its enlarged thumbnail. */
export type Reason =
  | "cancelled" // it left the view, or `AbortSignal`
  | "reduced-data" // the visitor asked for less data, and restoring needs a download
  | "declined" // a page's listener refused the download
  | "no-picture" // the thumbnail cannot be fetched or decoded
  | "no-metadata" // nothing says which model restores it
  | "newer-format" // made by a newer FaithEIR
  | "unknown-model" // the site does not hold the model that made it
  | "damaged-model" // a file of the model is cut short or is not what the index says
  | "no-model" // a file of the model or of the runtime cannot be fetched
  | "too-large" // more pixels than the page allows
  | "unsupported" // the browser lacks something
  | "failed"; // anything else, such as memory

/** Restoring was not possible; `reason` is for programs, the message for people. */
export class RestoreError extends Error {
  override readonly name = "RestoreError";

  constructor(
    readonly reason: Reason,
    message: string,
  ) {
    super(message);
  }
}

export function asRestoreError(error: unknown, reason: Reason = "failed"): RestoreError {
  if (error instanceof RestoreError) return error;
  const message = error instanceof Error ? error.message : String(error);
  return new RestoreError(error instanceof Error && error.name === "AbortError" ? "cancelled" : reason, message);
}
