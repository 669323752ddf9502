// The page: sign-in, the index and the view.

import * as api from './api.js';
import * as health from './health.js';
import { attempt, closeDialog, make, tell } from './parts.js';
import * as people from './people.js';
import * as search from './search.js';

const VIEWS = { search, people, health };
const KEY = /^#key=(.+)$/;
const SCOPES = ['read', 'write', 'admin'];
const main = document.getElementById('main');
const select = document.getElementById('index');
const header = document.querySelectorAll('header > [hidden]');
let ending = new AbortController();

const app = {
  index: null,
  scope: 'read',
  until: { signal: ending.signal }, // for listeners that end with the view
  may: scope => SCOPES.indexOf(app.scope) >= SCOPES.indexOf(scope),
  go: (view, detail = '') => { location.hash = `/${encodeURIComponent(app.index)}/${view}/${encodeURIComponent(detail)}`; },
};

function address() {
  try {
    return location.hash.split('/').map(decodeURIComponent);
  } catch {
    return []; // not valid percent-encoding
  }
}

function show() {
  const [, index, view, detail] = address();
  const known = [...select.options].some(option => option.value === index);
  if (!known || !VIEWS[view]) return location.replace(`#/${encodeURIComponent(app.index)}/${VIEWS[view] ? view : 'search'}/`);
  closeDialog();
  app.index = select.value = index;
  ending.abort();
  ending = new AbortController();
  app.until = { signal: ending.signal };
  document.title = `facegallery: ${index}`;
  document.getElementById('news').replaceChildren();
  for (const link of document.querySelectorAll('nav a')) {
    link.href = `#/${encodeURIComponent(index)}/${link.dataset.view}/`;
    if (link.dataset.view === view) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  VIEWS[view].show(main, app, detail);
}

async function enter() {
  const me = await api.whoAmI();
  app.scope = me.scope;
  const names = await api.indexes();
  select.replaceChildren(...names.map(name => make('option', { value: name }, name)));
  app.index = names[0];
  for (const element of header) element.hidden = false;
  document.querySelector('header .index').hidden = names.length < 2;
  main.replaceChildren();
  show();
}

/** Tells whether the form for a key is shown. */
const asksForKey = () => main.querySelector('input[name=key]') !== null;

function askForKey() {
  if (asksForKey()) return;
  ending.abort();
  closeDialog();
  for (const element of header) element.hidden = true;
  const wrong = make('p', { className: 'wrong', role: 'alert' });
  const input = make('input', { type: 'password', name: 'key', required: true, autocomplete: 'current-password' });
  const form = make('form', { className: 'ask' }, make('label', {}, 'Key', input), wrong, make('button', { className: 'main' }, 'Sign in'));
  form.addEventListener('submit', event => {
    event.preventDefault();
    attempt(async () => { await api.signIn(input.value.trim()); await enter(); }, wrong);
  });
  main.replaceChildren(make('h1', {}, 'Sign in'), make('p', {}, 'Enter a key of this server. The address that the server shows at its start signs in by itself.'), form);
  input.focus();
}

select.addEventListener('change', () => { app.index = select.value; app.go('search'); });
document.getElementById('leave').addEventListener('click', () => attempt(async () => { await api.signOut(); location.hash = ''; location.reload(); }));

document.querySelector('.skip').addEventListener('click', event => { event.preventDefault(); main.focus(); });
for (const kind of ['dragover', 'drop']) { // otherwise the browser would open the file instead of the page
  addEventListener(kind, event => { if (event.dataTransfer.types.includes('Files')) event.preventDefault(); });
}
addEventListener('signed-out', askForKey);
addEventListener('hashchange', () => {
  if (KEY.test(location.hash)) start();
  else if (app.index && !asksForKey()) show();
});

async function start() {
  const key = KEY.exec(location.hash)?.[1];
  if (key) {
    history.replaceState(null, '', location.pathname);
    await attempt(() => api.signIn(key));
  }
  try {
    await enter();
  } catch (problem) {
    if (problem.status !== 401) tell(problem.message);
  }
}

start();
