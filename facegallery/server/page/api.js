// Requests to the server that this page came from.

import { explain, kindOf } from './messages.js';

/** A request that failed; its message is for people. body: the problem that the server sent. */
export class Problem extends Error {
  constructor(status, body = {}, message = explain(status, body)) {
    super(message);
    this.status = status;
    this.body = body || {};
    this.kind = kindOf(body);
  }
}

const SESSION = '/v1/session';
const AGAIN = 3; // times that a request is sent again to a server that is busy
const PHOTO_MB = 20;

/** A new Idempotency-Key. */
const mark = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), b => b.toString(16).padStart(2, '0')).join('');

async function ask(method, path, { query = {}, json, photo, again = true } = {}) {
  const url = new URL(path, location.origin);
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined && value !== null && value !== '') url.searchParams.append(name, value);
  }
  const headers = {};
  if (method !== 'GET') headers['X-Facegallery'] = '1';
  if (method !== 'GET' && again) headers['Idempotency-Key'] = mark();
  if (json !== undefined) headers['Content-Type'] = 'application/json';
  if (photo) headers['Content-Type'] = photo.type || 'application/octet-stream';
  if (photo?.size > PHOTO_MB << 20) throw new Problem(413, {}, `This photo has more than ${PHOTO_MB} MB. Make it smaller.`);
  const answer = await send(url, { method, headers, body: photo || (json === undefined ? undefined : JSON.stringify(json)) });
  const body = answer.status === 204 ? null : await answer.json().catch(() => null);
  if (answer.status === 401 && path !== SESSION) {
    dispatchEvent(new Event('signed-out'));
    throw new Problem(401, body, 'Your session has ended. Sign in again.');
  }
  if (!answer.ok) throw new Problem(answer.status, body);
  return body;
}

/** Sends a request, and again while the server is busy. */
async function send(url, request) {
  for (let times = 0; ; times++) {
    const answer = await fetch(url, request).catch(() => { throw new Problem(0, {}, 'The server cannot be reached. It may have been stopped.'); });
    if (![429, 503].includes(answer.status) || times === AGAIN) return answer;
    await new Promise(done => setTimeout(done, 1000 * (Number(answer.headers.get('Retry-After')) || 1)));
  }
}

const of = (index, rest = '') => `/v1/indexes/${encodeURIComponent(index)}${rest}`;

export const signIn = key => ask('POST', SESSION, { json: { key }, again: false });
export const signOut = () => ask('DELETE', SESSION, { again: false });
export const whoAmI = () => ask('GET', '/v1/me');
export const indexes = async () => (await ask('GET', '/v1/indexes')).indexes;
export const info = index => ask('GET', of(index));
export const search = (index, photo, k) => ask('POST', of(index, '/search'), { photo, query: { k, image: photo.name }, again: false });
export const enrol = (index, photo, identity, face, readmit) =>
  ask('POST', of(index, '/faces'), { photo, query: { identity, face, readmit, image: photo.name } });
export const people = (index, containing, cursor, limit) => ask('GET', of(index, '/people'), { query: { containing, cursor, limit } });
export const faces = async (index, identity) => (await ask('GET', of(index, '/faces'), { query: { identity } })).faces;
export const rename = (index, old, to) => ask('POST', of(index, '/people/rename'), { json: { old, new: to } });
export const merge = (index, source, into) => ask('POST', of(index, '/people/merge'), { json: { source, into } });
export const split = (index, faceIds, to) => ask('POST', of(index, '/people/split'), { json: { face_ids: faceIds, to } });
export const remove = (index, what) => ask('POST', of(index, '/people/remove'), { json: what });
export const forget = (index, identity) => ask('POST', of(index, '/people/forget'), { json: { identity } });
export const undo = (index, command) => ask('POST', of(index, '/undo'), { json: { command } });
export const compact = index => ask('POST', of(index, '/compact'), { again: false });
export const calibrate = (index, fpir) => ask('POST', of(index, '/calibrate'), { json: { fpir }, again: false });
export const job = id => ask('GET', `/v1/jobs/${id}`);
export const thumbnail = (index, faceId) => of(index, `/faces/${faceId}/thumbnail`);
