// `snapswitch install` and `uninstall`: what they plan for hosts of all sorts, and what they do to one whose /etc and
// /var are this test's own. systemd-analyze judges the units.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { COORDINATOR_STOP_MS } from '../../src/cli/embedded-coordinator.js'
import { COMMAND_MS, firstConfig } from '../../src/cli/install/commands.js'
import { type HostFound, planInstall, planUninstall, type Step } from '../../src/cli/install/plan.js'
import { releaseOf } from '../../src/cli/install/release.js'
import { isUnchanged, renderUnit } from '../../src/cli/install/units.js'
import { packageFile } from '../../src/runtime/package.js'
import { loadSwitchConfig } from '../../switch/config.js'
import { attempt, run } from '../lab/command.js'
import { program } from '../lab/daemon.js'
import { fileLimit } from '../patience.js'

t.setTimeout(fileLimit(120_000))

const template = '[Service]\nExecStart=snapswitch switch --config /c\nExecReload=snapswitch reload\n'
const usual = { program: '/usr/bin/snapswitch', node: '/usr/bin/node', release: '2.0.0 (1a2b3c4d)' }
const unit = (found: string | null) => {
  const name = 'snapswitch-switch.service'
  return { name, template, text: renderUnit(template, usual), found }
}
const host = (found: string | null, exists: boolean, systemd = true): HostFound => ({
  units: [unit(found)],
  others: [],
  release: usual.release,
  configs: [{ path: '/etc/snapswitch/switch.yaml', text: 'host: h\n', exists }],
  bridge: null,
  systemd,
})
const words = (steps: readonly Step[]) =>
  steps.flatMap((step) => {
    if (step.kind === 'run') return [step.command.slice(1).join(' ')]
    return step.kind === 'note' ? [] : [`${step.kind} ${step.path}`]
  })
const said = (steps: readonly Step[]) => steps.flatMap((step) => (step.kind === 'note' ? [step.text] : [])).join('\n')
const SERVICE = 'snapswitch-switch.service'

t.test('a unit finds its program and its node, whatever they are called', async (t) => {
  const plain = renderUnit(template, usual)
  t.match(plain, /^ExecStart=\/usr\/bin\/snapswitch switch --config \/c$/m)
  t.match(plain, /^ExecReload=\/usr\/bin\/snapswitch reload$/m)
  t.notMatch(plain, 'Environment')
  const odd = renderUnit(template, {
    ...usual,
    program: '/opt/my tools/100%/snapswitch',
    node: '/opt/node 20/bin/node',
  })
  t.match(odd, '\nExecStart="/opt/my tools/100%%/snapswitch" switch --config /c\n')
  t.match(odd, '\nEnvironment="PATH=/opt/node 20/bin:/usr/local/sbin:')
  for (const text of [plain, odd]) {
    t.ok(isUnchanged(text))
    t.notOk(isUnchanged(text.replace('/c\n', '/d\n')))
    t.notOk(isUnchanged(`${text}ExecStart=/other\n`))
  }
  t.notOk(isUnchanged(template))
})

t.test('systemd waits for longer than a daemon that stops in order takes', async (t) => {
  for (const file of [SERVICE, 'snapswitch-coordinator.service']) {
    const text = readFileSync(packageFile('packaging', 'systemd', file), 'utf8')
    const stopMs = Number(/^TimeoutStopSec=(\d+)$/m.exec(text)?.[1]) * 1000
    const startMs = Number(/^TimeoutStartSec=(\d+)$/m.exec(text)?.[1] ?? 0) * 1000
    t.ok(stopMs >= COORDINATOR_STOP_MS + 30_000, `${file}: ${stopMs}`)
    t.ok(COMMAND_MS > stopMs + startMs, `${file}: systemctl restart takes as long as both`)
  }
})

t.test('installed once, again, over an older one, and beside what somebody has changed', async (t) => {
  const { text } = unit(null)
  const etc = ['directory /etc/snapswitch', 'directory /var/lib/snapswitch']
  const written = `write /etc/systemd/system/${SERVICE}`
  const config = 'write /etc/snapswitch/switch.yaml'
  const up = ['daemon-reload', `enable ${SERVICE}`, `start ${SERVICE}`]
  t.same(words(planInstall(host(null, false), true)), [...etc, config, written, ...up])
  t.same(words(planInstall(host(text, true), true)), [...etc, ...up])
  const former = renderUnit(template, { ...usual, program: '/old/snapswitch' })
  const again = ['daemon-reload', `enable ${SERVICE}`, `restart ${SERVICE}`]
  for (const found of [former, template])
    t.same(words(planInstall(host(found, true), true)), [...etc, written, ...again])
  const changed = planInstall(host(`${text}Nice=1\n`, true), true)
  t.same(words(changed), [...etc, ...up])
  t.match(said(changed), /was changed by hand, and stays so/)
  t.same(words(planInstall(host(null, true), false)), [...etc, written, 'daemon-reload', `enable ${SERVICE}`])
  t.same(words(planInstall(host(null, true, false), true)), [...etc, written, `enable ${SERVICE}`])
})

t.test('after an upgrade the daemon is started again, whatever else the unit says', async (t) => {
  const again = `restart ${SERVICE}`
  const last = (steps: readonly Step[]) => words(steps).at(-1)
  const renderedAs = (release: string) => renderUnit(template, { ...usual, release })
  t.equal(last(planInstall(host(renderedAs('1.9.0 (1a2b3c4d)'), true), true)), again, 'another version')
  t.equal(last(planInstall(host(renderedAs('2.0.0 (0badcafe)'), true), true)), again, 'another build of it')
  t.equal(last(planInstall(host(renderedAs(usual.release), true), true)), `start ${SERVICE}`, 'the same')
  // As versions before wrote it: without its version.
  const former = `[Service]
ExecStart=/usr/bin/snapswitch switch --config /c
ExecReload=/usr/bin/snapswitch reload

# Written by \`snapswitch install\`. Digest of what is above: 76480e4972e96f4b
`
  t.ok(isUnchanged(former))
  t.equal(last(planInstall(host(former, true), true)), again)
  t.match(words(planUninstall(host(former, true))), [`stop ${SERVICE}`, `disable ${SERVICE}`, /^remove /])

  const kept = said(planInstall(host(`${renderedAs('1.9.0')}Nice=1\n`, true), true))
  t.match(kept, `\`systemctl restart ${SERVICE}\` makes it run 2.0.0 (1a2b3c4d)`, 'changed by hand')
  const later = planInstall(host(renderedAs('1.9.0'), true), false)
  t.equal(last(later), `enable ${SERVICE}`)
  t.match(said(later), `\`systemctl restart ${SERVICE}\` makes it run 2.0.0 (1a2b3c4d)`, '--no-start')
  const beside = (found: string): HostFound => ({
    ...host(unit(null).text, true),
    others: [{ ...unit(found), name: 'snapswitch-coordinator.service' }],
  })
  const coordinator = planInstall(beside(renderedAs('1.9.0')), true)
  t.notMatch(words(coordinator).join(), 'coordinator')
  t.match(said(coordinator), '`snapswitch install --coordinator` makes it run 2.0.0 (1a2b3c4d)')
  t.notMatch(said(planInstall(beside(unit(null).text), true)), 'coordinator')
})

t.test('a build is told from another of its version', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'ssw-release-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  const written = (name: string, text: string) => {
    writeFileSync(join(folder, name), text)
    return releaseOf(folder, '2.0.0')
  }
  const first = written('program.cjs', 'a')
  t.match(first, /^2\.0\.0 \([0-9a-f]{12}\)$/)
  const worker = written('worker.js', 'b')
  t.not(worker, first)
  t.equal(written('worker.js.map', 'c'), worker, 'maps and caches are no programs')
  t.not(written('program.cjs', 'd'), worker)
  t.equal(written('program.cjs', 'a'), worker)
  t.equal(releaseOf(join(folder, 'none'), '2.0.0'), '2.0.0')
})

t.test('a coordinator that has no configuration yet does not fail at every boot', async (t) => {
  const name = 'snapswitch-coordinator.service'
  const path = '/etc/snapswitch/coordinator.yaml'
  const both = (exists: boolean, systemd: boolean): HostFound => {
    const { units, configs, ...rest } = host(null, true, systemd)
    return { ...rest, units: [...units, { ...unit(null), name }], configs: [...configs, { path, text: null, exists }] }
  }
  for (const systemd of [true, false]) {
    const without = planInstall(both(false, systemd), true)
    t.notMatch(words(without).join(), `enable ${name}`)
    t.notMatch(words(without).join(), `start ${name}`)
    t.match(words(without).join(), `enable ${SERVICE}`)
    t.match(said(without), `write ${path}`)
    t.match(words(planInstall(both(true, systemd), true)).join(), `enable ${name}`)
  }
})

t.test('uninstalled: configuration and state stay, and so does what somebody has changed', async (t) => {
  const { text } = unit(null)
  const steps = planUninstall(host(text, true))
  t.same(words(steps), [
    `stop ${SERVICE}`,
    `disable ${SERVICE}`,
    `remove /etc/systemd/system/${SERVICE}`,
    'daemon-reload',
  ])
  t.match(said(steps), /\/etc\/snapswitch\/switch.yaml stays/)
  t.match(said(steps), /\/var\/lib\/snapswitch stays/)
  t.notMatch(words(planUninstall(host(`${text}Nice=1\n`, true))).join(), 'remove')
  t.match(said(planUninstall(host(null, false))), /no unit of snapswitch is installed/)
})

t.test('the first configuration is one', async (t) => {
  const file = join(mkdtempSync(join(tmpdir(), 'ssw-install-')), 'switch.yaml')
  t.teardown(() => rmSync(join(file, '..'), { recursive: true }))
  for (const [name, expected] of [
    ['lab7.example.org', 'lab7'],
    ['', 'host'],
    ['-odd name', 'host'],
  ] as const) {
    writeFileSync(file, firstConfig(name))
    t.equal(loadSwitchConfig(file).host, expected)
  }
  for (const [bridge, network] of [
    ['br0', 'br0'],
    ['br0.100', 'br0.100'],
    ["odd'#:{name", 'lan'],
  ] as const) {
    writeFileSync(file, firstConfig('h', bridge))
    t.equal(loadSwitchConfig(file).networks[network]?.bridge, bridge)
  }
  const taking = planInstall({ ...host(null, true), bridge: 'br7' }, true)
  t.match(said(taking), /switch\.yaml is there, and stays as it is: unless it has `bridge: br7` in a network/)
})

const root = { skip: process.getuid?.() === 0 ? false : 'needs root' }

t.test('on a host: dry, for real, again, and away', root, async (t) => {
  const own = '/etc/systemd/system /etc/snapswitch /var/lib/snapswitch'
  const missing = (
    await Promise.all(['/etc/snapswitch', '/var/lib/snapswitch'].map((path) => attempt('test', ['-e', path])))
  ).flatMap(({ code }, at) => (code === 0 ? [] : [['/etc/snapswitch', '/var/lib/snapswitch'][at] as string]))
  t.teardown(async () => {
    for (const path of missing) await attempt('rmdir', [path])
  })
  const script = `
    set -e
    mkdir -p ${own}
    for path in ${own}; do mount -t tmpfs none $path; done
    look() { find ${own} -mindepth 1 -printf '%p %m %l\\n' | sort; }
    S=${program()}
    $S install --coordinator --dry-run >/tmp/ssw-install.$$; grep -q 'ExecStart=' /tmp/ssw-install.$$; rm /tmp/ssw-install.$$
    [ -z "$(look)" ]
    ! $S install --take lo 2>/dev/null
    [ -z "$(look)" ]
    $S install --coordinator
    [ ! -e /etc/systemd/system/multi-user.target.wants/snapswitch-coordinator.service ]
    echo 'listen: /run/x' >/etc/snapswitch/coordinator.yaml
    $S install --coordinator
    echo ==1; look
    grep -hE '^# Of snapswitch [0-9.]+ \\([0-9a-f]{12}\\)\\.$' /etc/systemd/system/snapswitch-*.service | sort | uniq -c >/run/ssw-of.$$
    [ "$(wc -l </run/ssw-of.$$)" = 1 ]; rm /run/ssw-of.$$
    systemd-analyze verify --man=no /etc/systemd/system/snapswitch-*.service 2>&1 | grep -i snapswitch || true
    echo ==2
    echo '# mine' >>/etc/snapswitch/switch.yaml
    echo 'Nice=1' >>/etc/systemd/system/snapswitch-coordinator.service
    look >/run/ssw-before.$$; $S install --coordinator; look | diff /run/ssw-before.$$ -; rm /run/ssw-before.$$
    grep -q '# mine' /etc/snapswitch/switch.yaml
    echo ==3
    $S uninstall
    echo ==4; look`
  const out = await run('unshare', ['-m', 'sh', '-c', script], 120_000)
  const { files, verdict, again, gone, left } = split(out)
  t.match(files, '/etc/snapswitch/switch.yaml 640')
  t.match(files, '/etc/systemd/system/snapswitch-switch.service 644')
  t.match(files, /multi-user\.target\.wants\/snapswitch-switch\.service 777 \S*snapswitch-switch\.service/)
  t.match(files, /multi-user\.target\.wants\/snapswitch-coordinator\.service/)
  t.equal(verdict, '', 'systemd finds nothing wrong with the units')
  t.match(again, /switch\.yaml is there, and stays as it is/)
  t.match(again, /snapswitch-coordinator\.service was changed by hand, and stays so/)
  t.match(gone, /\/var\/lib\/snapswitch stays/)
  t.match(left, '/etc/snapswitch/switch.yaml')
  t.match(left, 'snapswitch-coordinator.service 644', 'changed by hand')
  t.notMatch(left, 'snapswitch-switch.service')
  t.notMatch(left, 'wants/')
})

/** What stands between the marks, with what `look` and the judge have said apart. */
function split(out: string) {
  const [, one = '', again = '', gone = '', left = ''] = out.split(/^==\d\n/m)
  const lines = one.split('\n')
  const isFile = (line: string) => /^\/(etc|var)\S* \d+ /.test(line)
  const verdict = lines.filter((line) => line !== '' && !isFile(line)).join('\n')
  return { files: lines.filter(isFile).join('\n'), verdict, again, gone, left }
}
