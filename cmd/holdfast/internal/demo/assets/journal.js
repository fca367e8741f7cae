// Keeps the page of the journal up to date: once a second it asks for the parts that
// change, as any visitor of the shop would, and counts how often that failed.
(() => {
  const pulse = document.getElementById('pulse');
  const said = document.getElementById('said');
  let asked = 0, failed = 0;

  const latest = () => document.querySelector('#entries li')?.innerText.replace(/\s+/g, ' ').trim();
  let last = latest();

  const show = html => {
    for (const part of new DOMParser().parseFromString(html, 'text/html').body.children) {
      const old = document.getElementById(part.id);
      if (old && old.innerHTML !== part.innerHTML) old.innerHTML = part.innerHTML;
    }
    if (latest() !== last) said.textContent = last = latest();
  };

  const ask = async () => {
    try {
      const answer = await fetch('/journal/live' + location.search, { signal: AbortSignal.timeout(30000) });
      if (!answer.ok) throw new Error(answer.status);
      show(await answer.text());
    } catch {
      failed++;
    }
    asked++;
    pulse.innerText = `Asked once a second: ${asked - failed} answered, ${failed} failed.`;
    setTimeout(ask, 1000);
  };
  setTimeout(ask, 1000);
})();
