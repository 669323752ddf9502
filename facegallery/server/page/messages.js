// What the page says about the server's problems. Their own details are for programs and the command line.

const LOG = 'Its log says more.';
const MESSAGES = {
  busy: 'The server is busy. Try again in a moment.',
  command: 'This was changed meanwhile. Try again.',
  conflict: 'This cannot be done: it was changed meanwhile, or the name is used by somebody else.',
  damaged: `The index is damaged and must be repaired by whoever runs the server. ${LOG}`,
  done: 'This is done already. Reload the page to see it.',
  fault: `The server failed. ${LOG}`,
  forgotten: 'This face was forgotten.',
  header: 'This page is too old. Reload it.',
  host: 'The server does not know this address. Whoever runs it can allow it.',
  http: 'The server has no such page.',
  'in-work': 'This is running already. Wait until it has ended.',
  index: 'This index is no longer served.',
  key: 'This key is not valid.',
  large: 'This photo is too large. Make it smaller.',
  'not-ready': 'The server is still starting. Try again in a moment.',
  origin: 'This page does not belong to this server. Open the page of the server.',
  rate: 'Too many requests. Wait a second and try again.',
  scope: 'Your key does not allow this.',
  'several-faces': 'This photo has several faces. Choose one of them.',
  slow: 'The connection is too slow. Try again.',
  system: `The server has no space left, or may not write its files. ${LOG}`,
  unknown: 'This is no longer there: it was renamed or removed meanwhile.',
};
const OUTCOMES = {
  no_face: 'No face was found in this photo.',
  too_small: 'This photo is too small to show a face.',
  unreadable: 'This file is not a photo, or it is damaged. Choose a JPEG, PNG or WebP file.',
  too_large: 'This photo has too many pixels. Make it smaller.',
  needs_plugin: 'The server cannot read this kind of photo. Save it as a JPEG.',
  timeout: 'The server could not read this photo in time. Save it as a JPEG.',
  decoder_died: 'The server could not read this photo. Save it as a JPEG.',
};

/** The end of a problem's type, such as "unknown". */
export const kindOf = body => String(body?.type || '').split(':').pop();

/** What the page says about a problem. */
export function explain(status, body) {
  const kind = kindOf(body);
  return OUTCOMES[body?.outcome] || OUTCOMES[kind] || MESSAGES[kind]
    || (status === 422 ? 'The server does not accept this. Check what you entered.' : `The server answered with an error (${status}).`);
}

/** What the page says about a photo in which no face was found. */
export const explainOutcome = outcome => OUTCOMES[outcome] || OUTCOMES.no_face;

/** What the page says about a job that has ended. */
export function describeJob(job) {
  const names = { calibrate: 'Calibration', compact: 'Rebuild' };
  if (job.state !== 'done') return `${names[job.kind]} failed. ${FAILED[job.kind]}`;
  if (job.kind === 'compact') return `Rebuilt: ${job.result.faces} photos, generation ${job.result.generation}.`;
  const { threshold, fpir } = job.result;
  return `Calibrated: a hit counts from a score of ${threshold.toFixed(3)}, for a share of ${fpir} strangers.`;
}

const FAILED = {
  calibrate: 'It needs several people, and more of them for a smaller share. Enrol more people, or ask for a larger share.',
  compact: `Try again later. The server may have no space left. ${LOG}`,
};
