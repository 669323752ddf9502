// The enrolled people, and corrections.

import * as api from './api.js';
import { askFor, attempt, button, closeDialog, make, number, open, picture, refocus, tell } from './parts.js';

const PAGE = 60;
const MOST = 1000; // names that one answer holds

const taken = name => ({ conflict: `${name} is enrolled already. If both are one person, choose “Same person as”.` });
const missing = name => ({ unknown: `Nobody is called ${name}.`, conflict: `${name} is the same person.` });
const reworded = (problem, texts) => texts[problem.kind] ? new api.Problem(problem.status, problem.body, texts[problem.kind]) : problem;
const photos = n => n === 1 ? '1 photo' : `${number(n)} photos`;

/** Some names that contain a text, as suggestions. */
export async function names(index, text) {
  if (!text) return [];
  return (await attempt(() => api.people(index, text, undefined, 8)))?.people.map(person => person.identity) || [];
}

export function show(main, app, wanted) {
  const { index, until: { signal } } = app;
  const query = make('input', { type: 'search', id: 'containing', placeholder: 'Part of a name', autocomplete: 'off' });
  const list = make('ul', { className: 'people' });
  const more = button('More', () => next(), { hidden: true });
  const count = make('p', { className: 'count' });
  const heading = make('h1', { tabIndex: -1 }, 'People');
  main.replaceChildren(heading, make('form', { className: 'find', onsubmit: event => event.preventDefault() },
    make('label', { htmlFor: 'containing' }, 'Find'), query), count, list, more);
  let cursor, asked = 0, looked = 0, typing;

  /** Shows the first people; after a change as many as before. */
  async function begin(many = PAGE) {
    const mine = ++asked;
    const page = await attempt(() => api.people(index, query.value.trim(), undefined, Math.min(many, MOST)));
    if (mine !== asked || !page) return;
    list.replaceChildren();
    add(page);
    count.textContent = page.people.length ? '' : query.value ? 'Nobody has such a name.' : 'Nobody is enrolled yet. Search with a photo and enrol a face.';
  }

  async function next() {
    const mine = asked;
    const page = await attempt(() => api.people(index, query.value.trim(), cursor, PAGE));
    if (page && mine === asked) {
      const first = list.children.length;
      add(page);
      list.children[first]?.querySelector('button').focus();
    }
  }

  function add(page) {
    cursor = page.next;
    more.hidden = !cursor;
    list.append(...page.people.map(person => make('li', { 'data-identity': person.identity }, button([
      picture(person.face_id && api.thumbnail(index, person.face_id), { alt: '', width: 96, height: 96 }),
      make('span', { className: 'name' }, person.identity),
      make('span', { className: 'score' }, photos(person.faces)),
    ], () => look(person.identity), { className: 'hit' }))));
  }

  async function look(identity) {
    const mine = ++looked;
    const faces = await attempt(() => api.faces(index, identity));
    if (!faces || mine !== looked || signal.aborted) return;
    const change = app.may('write');
    open(identity,
      make('ul', { className: 'faces' }, faces.map(face => make('li', {},
        picture(api.thumbnail(index, face.face_id), { alt: `Photo ${face.image}`, width: 128, height: 128 }),
        make('span', { className: 'file' }, face.image),
        change && make('span', { className: 'actions' },
          button('Somebody else\u00a0…', () => give(identity, face), { 'aria-label': `${face.image} is somebody else` }),
          button('Remove', () => attempt(() => run(() => api.remove(index, { face_id: face.face_id }), 'One photo removed.', identity)), { 'aria-label': `Remove ${face.image}` }))))),
      make('p', { className: 'actions' },
        change && button('Correct the name\u00a0…', () => askFor('Correct the name', 'New name', 'Rename',
          name => run(() => api.rename(index, identity, name), `${identity} is now called ${name}.`, name, taken(name)), { value: identity })),
        change && button('Same person as\u00a0…', () => askFor('Merge two people', `All photos of ${identity} go to`, 'Merge',
          name => run(() => api.merge(index, identity, name), `${identity} was merged with ${name}.`, name, missing(name)), { list: text => names(index, text) })),
        change && button('Remove', () => attempt(() => run(() => api.remove(index, { identity }), `${identity} removed.`))),
        app.may('admin') && button('Forget for good\u00a0…', () => forget(identity), { className: 'danger' })));
  }

  const give = (identity, face) => askFor('Who is it?', 'Name', 'Change',
    name => run(() => api.split(index, [face.face_id], name), `The photo is now ${name}'s.`, identity), { list: text => names(index, text) });

  const forget = identity => askFor(`Forget ${identity} for good?`, `Type ${identity} to confirm`, 'Forget for good', async () => {
    const receipt = await api.forget(index, identity);
    await changed();
    open('Forgotten', make('p', {}, `Removed from this index: ${photos(receipt.face_ids.length)}, their vectors and crops, and the name. `
      + `${Object.keys(receipt.files).length} files were checked, ${receipt.found} traces are left.`),
    receipt.pending && make('p', {}, 'A part is removed once other programs have stopped reading the index. The view “Index” shows when it is finished.'),
    receipt.notes.map(line => make('p', {}, line)),
    receipt.not_cleaned.length && make('div', {}, make('p', {}, 'Not removed, check these yourself:'),
      make('ul', {}, receipt.not_cleaned.map(line => make('li', {}, line)))));
  }, {
    must: identity, danger: true,
    note: 'Photos, vectors, crops and the name are removed from this index and its files, and these photos are refused from now on. '
      + 'This cannot be undone. Original photos, backups and exports elsewhere stay.',
  });

  /** Makes a change and shows a message with `Undo`. problems: what to say instead of a problem, by its kind. */
  async function run(work, text, identity, problems = {}) {
    const { command } = await work().catch(problem => { throw reworded(problem, problems); });
    closeDialog();
    await changed(identity);
    tell(text, command && button('Undo', () => attempt(async () => { await api.undo(index, command); await changed(identity); tell('Undone.'); })));
  }

  /** Reloads the names, and focuses a person, or the heading, where the focused element was removed. */
  async function changed(identity) {
    document.dispatchEvent(new Event('gallery-changed'));
    await begin(Math.max(PAGE, list.children.length));
    refocus([...list.children].find(item => item.dataset.identity === identity)?.querySelector('button') || heading);
  }

  query.addEventListener('input', () => { clearTimeout(typing); typing = setTimeout(() => begin(), 150); });
  begin();
  if (wanted) look(wanted);
}
