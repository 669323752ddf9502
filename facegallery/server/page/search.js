// Search with a photo: its faces, and whom they resemble.

import * as api from './api.js';
import { announce, askFor, attempt, button, closeDialog, isAsked, make, open, percent, picture, refocus, tell } from './parts.js';
import { explainOutcome } from './messages.js';
import { names } from './people.js';

const K = 5;
let kept = null; // the last photo and its answer, to show again when this view is opened again
document.addEventListener('gallery-changed', () => { kept = null; });

export function show(main, app) {
  const { index, until: { signal } } = app;
  const input = make('input', { type: 'file', accept: 'image/*', id: 'file', className: 'visually-hidden' });
  input.addEventListener('change', () => {
    const [photo] = input.files;
    input.value = ''; // so that the same one can be chosen again
    if (photo) look(photo);
  });
  const drop = make('label', { className: 'drop', htmlFor: 'file' },
    make('span', {}, make('strong', {}, 'Choose a photo'), ', drop one here, or paste one'));
  const camera = button('Use the camera', () => shoot(look), { disabled: !navigator.mediaDevices });
  const results = make('section', { 'aria-label': 'Faces', className: 'results' });
  for (const kind of ['dragenter', 'dragover']) addEventListener(kind, () => drop.classList.add('over'), app.until);
  for (const kind of ['dragleave', 'drop']) addEventListener(kind, () => drop.classList.remove('over'), app.until);
  addEventListener('drop', event => pick(event.dataTransfer.files), app.until);
  addEventListener('paste', event => pick(event.clipboardData.files), app.until);
  main.replaceChildren(make('h1', {}, 'Who is it?'), make('div', { className: 'choose' }, input, drop, camera), results);

  const pick = files => {
    const [photo, ...others] = [...files].filter(isPhoto);
    if (photo) { closeDialog(); look(photo); }
    else if (files.length) tell('This is not a photo. Choose a JPEG, PNG or WebP file.');
    if (others.length) tell(`One photo at a time: ${photo.name} is searched, ${others.length === 1 ? 'one other is' : `${others.length} others are`} not.`);
  };

  let looks = 0;

  /** Searches with a photo. again: after a change; the last answer stays until the new one has come. */
  async function look(photo, again = false) {
    const mine = ++looks; // a later photo's answer may come first
    kept = null;
    if (!again) results.replaceChildren(make('p', { className: 'wait' }, 'Looking for faces …'));
    const answer = await attempt(() => api.search(index, photo, K));
    if (mine !== looks || signal.aborted) return;
    if (!answer) return results.replaceChildren();
    kept = { index, photo, answer };
    await draw(photo, answer);
  }

  async function draw(photo, answer) {
    const mine = looks;
    const pixels = await createImageBitmap(photo).catch(() => null);
    if (mine !== looks) return;
    const shown = pixels ? withBoxes(photo, pixels, answer)
      : make('p', {}, 'This browser cannot show this kind of photo. Save it as a JPEG to see whose face is which.');
    const found = answer.faces.length;
    const heading = found === 0 ? explainOutcome(answer.outcome) : found === 1 ? 'One face' : `${found} faces`;
    const sure = pixels || found === 1; // which face it is
    results.replaceChildren(make('h2', {}, heading), shown, ...answer.faces.map(face => card(face, pixels, photo, sure)));
    if (answer.left_out) results.append(make('p', {}, `${answer.left_out} smaller faces are left out.`));
    announce(found === 0 ? heading : `${heading}: ${answer.faces.map(words).join(' ')}`);
  }

  function card(face, pixels, photo, sure) {
    const probe = cut(pixels, face.box);
    probe.setAttribute('aria-label', `Face ${face.face + 1} of the photo`);
    const hits = face.hits.map(hit => make('li', {}, button([
      picture(api.thumbnail(index, hit.face_id), { alt: '', width: 96, height: 96 }),
      make('span', { className: 'name' }, hit.identity),
      make('span', { className: 'score' }, hit.score.toFixed(3)),
    ], () => compare(face, hit, pixels, photo, sure), { className: 'hit', 'aria-label': `${hit.rank}. ${hit.identity}, score ${hit.score.toFixed(3)}: compare` })));
    const best = face.hits[0]?.identity;
    const state = face.known === null ? 'open' : face.known ? 'known' : 'unknown';
    return make('article', { className: `face ${state}`, id: `face-${face.face}`, tabIndex: -1, 'aria-label': `Face ${face.face + 1}` },
      make('div', { className: 'probe' }, probe, make('span', { className: 'number' }, String(face.face + 1))),
      make('div', { className: 'answer' },
        make('p', { className: 'verdict' }, make('strong', {}, title(face)), ' ', explanation(face)),
        make('ol', { className: 'hits' }, hits),
        app.may('write') && sure && make('p', { className: 'actions' },
          face.known && button(`It is ${best}: add this photo`, () => enrol(photo, face, best)),
          button(face.known ? 'It is somebody else\u00a0…' : 'Enrol\u00a0…', () => enrolAs(photo, face)))));
  }

  const enrolAs = (photo, face) => askFor('Who is it?', 'Name', 'Enrol', name => enrol(photo, face, name), { list: text => names(index, text) });

  async function enrol(photo, face, name, readmit = false) {
    const save = async () => {
      const done = await api.enrol(index, photo, name, face.face, readmit);
      await seen(photo, face, done.added ? `Enrolled as ${name}.` : `${name} has this face already.`, done.added && done.command);
    };
    try {
      await save();
    } catch (problem) {
      if (problem.body?.face_id) return another(photo, face, name, problem.body);
      if (problem.kind === 'forgotten') {
        return askFor('This face was forgotten', `Type ${name} to enrol it again`, 'Enrol again', () => enrol(photo, face, name, true), { must: name });
      }
      if (isAsked()) throw problem;
      tell(problem.message);
    }
  }

  /** Asks what to do with a photo that is enrolled as somebody else. */
  function another(photo, face, name, { face_id, identity }) {
    open(`This photo is enrolled as ${identity}`, make('p', { className: 'actions' }, button(`It is ${name}: correct it`, () => attempt(async () => {
      const { command } = await api.split(index, [face_id], name);
      await seen(photo, face, `The photo is now ${name}'s.`, command);
    }), { className: 'main' })));
  }

  /** Searches again after a change, and shows a message with `Undo`. */
  async function seen(photo, face, text, command) {
    await look(photo, true);
    closeDialog();
    refocus(document.getElementById(`face-${face.face}`));
    tell(text, command && button('Undo', () => attempt(async () => { await api.undo(index, command); await seen(photo, face, 'Undone.'); })));
  }

  function compare(face, hit, pixels, photo, sure) {
    open(`${hit.identity}: score ${hit.score.toFixed(3)}`,
      make('div', { className: 'compare' },
        make('figure', {}, cut(pixels, face.box, 320), make('figcaption', {}, `Face ${face.face + 1} of the photo`)),
        make('figure', {}, picture(api.thumbnail(index, hit.face_id), { alt: `Enrolled photo of ${hit.identity}` }),
          make('figcaption', {}, hit.image))),
      make('p', {}, `${hit.rank === 1 ? 'The nearest' : `Number ${hit.rank}`} of ${face.hits.length}. The same photo would have 1.`),
      make('p', { className: 'actions' },
        app.may('write') && sure && button(`It is ${hit.identity}: add this photo`, async () => { closeDialog(); await enrol(photo, face, hit.identity); }),
        button('All photos of this person', () => { closeDialog(); app.go('people', hit.identity); })));
  }

  if (kept?.index === index) draw(kept.photo, kept.answer);
  else kept = null;
}

const isPhoto = file => file.type.startsWith('image/') || /\.(hei[cf]|tiff?)$/i.test(file.name);

function title(face) {
  const best = face.hits[0];
  if (!best) return 'Nobody is enrolled.';
  if (face.known === null) return `Nearest: ${best.identity}.`;
  return face.known ? `Known: ${best.identity}.` : 'Unknown.';
}

function explanation(face) {
  if (!face.hits.length) return '';
  if (face.known === null) return 'This index is not calibrated, so it is not known whether that is near enough.';
  const often = `A stranger scores as high in ${cases(face)}.${face.stale ? ` The calibration is out of date: ${face.stale}.` : ''}`;
  return face.known ? often : `The nearest, ${face.hits[0].identity}, is not near enough. ${often}`;
}

/** How often a stranger scores as high, or at most how often, and why that is uncertain. */
function cases(face) {
  const often = face.chance <= face.chance_limit ? `at most 1 of ${Math.round(1 / face.chance_limit)} cases` : `${percent(face.chance)} of the cases`;
  return face.weak ? `${often}: ${face.weak}` : often;
}

const words = face => `Face ${face.face + 1}: ${title(face)}`;

/** The photo with a numbered button on each face. */
function withBoxes(photo, pixels, answer) {
  const url = URL.createObjectURL(photo);
  const image = make('img', { src: url, alt: 'The photo', onload: () => URL.revokeObjectURL(url) });
  const boxes = answer.faces.filter(face => face.box).map(face => {
    const [x0, y0, x1, y1] = face.box;
    const box = button(String(face.face + 1), () => document.getElementById(`face-${face.face}`).focus(),
      { className: `box ${face.known === null ? 'open' : face.known ? 'known' : 'unknown'}`, 'aria-label': words(face) });
    Object.assign(box.style, { left: `${100 * x0 / pixels.width}%`, top: `${100 * y0 / pixels.height}%`,
      width: `${100 * (x1 - x0) / pixels.width}%`, height: `${100 * (y1 - y0) / pixels.height}%` });
    return box;
  });
  return make('div', { className: 'photo' }, make('div', { className: 'frame' }, image, boxes));
}

/** A canvas with a face and a little around it. */
function cut(pixels, box, size = 128) {
  const canvas = make('canvas', { width: size, height: size, role: 'img', 'aria-label': 'The face in the photo' });
  if (!pixels || !box) return canvas;
  const [x0, y0, x1, y1] = box;
  const side = 1.25 * Math.max(x1 - x0, y1 - y0);
  const [left, top] = [(x0 + x1 - side) / 2, (y0 + y1 - side) / 2];
  canvas.getContext('2d').drawImage(pixels, left, top, side, side, 0, 0, size, size);
  return canvas;
}

/** Shows the camera; use: receives the photo. */
async function shoot(use) {
  const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: 'user', width: { ideal: 1280 } } }).catch(() => null);
  if (!stream) return tell('The camera cannot be used. Allow it in the browser, or choose a file.');
  const video = make('video', { autoplay: true, playsInline: true, muted: true, srcObject: stream, 'aria-label': 'What the camera sees' });
  const take = button('Take the photo', () => {
    const canvas = make('canvas', { width: video.videoWidth, height: video.videoHeight });
    canvas.getContext('2d').drawImage(video, 0, 0);
    canvas.toBlob(blob => { closeDialog(); use(new File([blob], 'camera.jpg', { type: 'image/jpeg' })); }, 'image/jpeg', 0.95);
  }, { className: 'main', disabled: true });
  video.addEventListener('loadeddata', () => { take.disabled = false; take.focus(); });
  const dialog = open('Camera', video, make('p', { className: 'actions' }, take));
  dialog.addEventListener('close', () => stream.getTracks().forEach(track => track.stop()), { once: true });
}
