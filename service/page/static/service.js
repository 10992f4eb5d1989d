// Talks to the service this page came from: addresses are relative, so that it works behind any path prefix.

import { sentence } from "./text.js";

const KEY = "ecenet-api-key";
const MAX_TRIES = 6;

/** An error that the service reports as a problem document (RFC 9457), or that the browser met. */
export class Problem extends Error {
  constructor(detail, { type = "", title = "", status = 0, requestId = "", retryAfterS = null, command = "" } = {}) {
    super(detail);
    Object.assign(this, { type, title, status, requestId, retryAfterS, command });
  }
}

/** Keep the key for this tab. */
export function useKey(key) {
  sessionStorage.setItem(KEY, key);
}

export function hasKey() {
  return sessionStorage.getItem(KEY) !== null;
}

/** The address of a path of the service, with parameters. */
export function address(path, parameters = {}) {
  // A comma needs no escape in a query, and is easier to read as it is.
  const query = new URLSearchParams(parameters).toString().replaceAll("%2C", ",");
  return new URL(path + (query && `?${query}`), document.baseURI).href;
}

/** One of the service's lists, such as its classes. */
export async function getJson(path, parameters, options = {}) {
  return (await request(address(path, parameters), {}, options)).json();
}

/** A file of the page. */
export async function getFile(url) {
  return (await requestOnce(url, {})).blob();
}

/** Send an image to be segmented, with `options.headers` if there are; gives the response, whose status is 200. */
export async function segment(image, parameters, options = {}) {
  const body = new FormData();
  body.append("file", image.blob, image.name);
  return request(address("segment", parameters), { method: "POST", body, headers: options.headers }, options);
}

/**
 * Send a request, and again when the service says that it is busy.
 *
 * `wait(problem, seconds)` is called before each pause and gives a promise of its end.
 */
async function request(url, init, { signal, wait }) {
  for (let tries = 1; ; tries += 1) {
    try {
      return await requestOnce(url, { ...init, signal });
    } catch (problem) {
      if (!(problem instanceof Problem) || problem.retryAfterS === null || !wait || tries === MAX_TRIES) {
        throw problem;
      }
      await wait(problem, problem.retryAfterS);
      signal?.throwIfAborted();
    }
  }
}

async function requestOnce(url, init) {
  const key = hasKey() ? { Authorization: `Bearer ${sessionStorage.getItem(KEY)}` } : {};
  const headers = { ...init.headers, ...key };
  let response;
  try {
    response = await fetch(url, { ...init, headers, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") {
      throw error;
    }
    throw new Problem("The service cannot be reached; is it running, and are you online?");
  }
  if (!response.ok) {
    throw await problemOf(response);
  }
  return response;
}

async function problemOf(response) {
  const text = await response.text();
  const isProblem = response.headers.get("Content-Type")?.startsWith("application/problem+json");
  const { type, title, detail } = isProblem ? JSON.parse(text) : { detail: `${response.status} ${response.statusText}` };
  const busy = response.status === 429 || response.status === 503;
  const retryAfter = Number.parseInt(response.headers.get("Retry-After"), 10);
  return new Problem(detail, {
    type,
    title: title && sentence(title),
    status: response.status,
    requestId: response.headers.get("X-Request-ID") ?? "",
    retryAfterS: busy && retryAfter >= 0 ? Math.max(retryAfter, 1) : null,
  });
}
