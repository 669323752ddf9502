// The state of the index, and its maintenance.

import * as api from './api.js';
import { describeJob } from './messages.js';
import { askFor, attempt, button, make, number, percent, tell } from './parts.js';

export async function show(main, app) {
  const { index, until: { signal } } = app;
  main.replaceChildren(make('h1', {}, `Index ${index}`));
  const found = await attempt(() => api.info(index));
  if (!found || signal.aborted) return;
  const changed = found.added_since + found.changed_since;
  const lines = {
    Holds: `${number(found.faces)} photos of ${number(found.people)} people`,
    Model: `${found.model}, ${found.dimensions} dimensions`,
    'Known or unknown': calibration(found),
    'Since the last build': changed ? `${number(found.added_since)} added, ${number(found.changed_since)} changed` : 'nothing has changed',
    Search: `${found.kind}, generation ${found.generation}`,
    Disk: `${number(Math.round(found.bytes / 1e6))} MB${found.encrypted ? ', encrypted' : ''}`,
    Forgotten: found.forgetting_pending ? 'a removal is not finished: another program still reads the index' : `${number(found.forgotten)} faces and names are refused`,
  };
  const state = make('p', { className: 'job' });
  main.append(...[
    make('dl', { className: 'lines' }, Object.entries(lines).flatMap(([name, text]) => [make('dt', {}, name), make('dd', {}, text)])),
    app.may('admin') && make('p', { className: 'actions' },
      button('Calibrate\u00a0…', () => askFor('Calibrate', 'Share of strangers that may be identified as somebody', 'Calibrate', async text => {
        const fpir = Number(text);
        if (!(fpir > 0 && fpir < 1)) throw new api.Problem(422, {}, 'Enter a share between 0 and 1, such as 0.01.');
        follow(await api.calibrate(index, fpir));
      }, { value: String(found.fpir ?? 0.01) })),
      button('Rebuild', () => attempt(async () => follow(await api.compact(index))))),
    state,
  ].filter(Boolean));

  async function follow(job) {
    const bar = make('progress', { 'aria-label': job.kind }), trouble = make('span', { className: 'wrong' });
    state.replaceChildren(bar, trouble);
    while (job.state === 'running') {
      if (job.total) Object.assign(bar, { value: job.done, max: job.total });
      await new Promise(done => setTimeout(done, 400));
      try {
        job = await api.job(job.id);
        trouble.replaceChildren();
      } catch (problem) {
        if (problem.status === 401 || problem.status === 404) return tell(problem.message);
        trouble.replaceChildren(problem.message); // the job is still running, and is asked for again
      }
    }
    tell(describeJob(job));
    if (!signal.aborted) show(main, app);
  }
}

function calibration(found) {
  if (found.threshold === null) return 'not calibrated, so faces have scores only';
  const text = `a hit counts from ${found.threshold.toFixed(3)}; ${percent(found.fpir)} of strangers may be identified as somebody`;
  const weak = found.calibration_weak ? `. This is uncertain (${found.calibration_weak}): enrol more people` : '';
  return text + weak + (found.calibration_stale ? `. This is out of date (${found.calibration_stale}): calibrate again` : '');
}
