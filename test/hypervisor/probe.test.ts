// The probes against what is known of this host by other means.

import { execFileSync } from 'node:child_process'
import t from 'tap'
import * as probe from '../../src/hypervisor/shared/probe.js'

t.test('QEMU and qemu-img', async (t) => {
  const text = execFileSync(probe.qemuBinary(), ['--version'], { encoding: 'utf8' })
  const finding = await probe.probeQemu()
  t.ok(finding.version !== null && text.includes(finding.version))
  t.equal(finding.ok, finding.cost === null)
  t.match(await probe.probeQemuImg(), { ok: true, cost: null })
  const path = process.env.PATH
  process.env.PATH = '/nowhere'
  t.teardown(() => {
    process.env.PATH = path
  })
  t.match(await probe.probeQemu(), { ok: false, version: null, cost: /apt-get install/ })
  t.match(await probe.probeQemuImg(), { ok: false, cost: /apt-get install/ })
})

t.test('userfaultfd and KVM say yes, or what it costs', async (t) => {
  for (const finding of [probe.probeUserfaultfd(), probe.probeKvm(), await probe.probeKvmRuns()]) {
    t.comment(finding.detail)
    t.equal(finding.ok, finding.cost === null)
    t.ok(finding.detail.length > 0)
  }
})

t.test('who may not, is told', (t) => {
  // Loaded as root, because the files may lie where others cannot read; then the effective user gives all power away.
  const script = `import('${new URL('../../src/hypervisor/shared/probe.js', import.meta.url)}').then((probe) => {
    process.setgroups([])
    process.setegid(65534)
    process.seteuid(65534)
    console.log(JSON.stringify([probe.probeUserfaultfd(), probe.probeKvm()]))
  })`
  // With io_uring, which Debian 13's Node.js has on, it refuses to give up its user.
  const env = { PATH: process.env.PATH, UV_USE_IO_URING: '0' }
  const text = execFileSync(process.execPath, ['-e', script], { encoding: 'utf8', env })
  const [userfaultfd, kvm] = JSON.parse(text) as probe.Finding[]
  t.match(kvm, { ok: false, cost: /TCG/ })
  if (probe.probeUserfaultfd().detail.endsWith('for root')) t.match(userfaultfd, { ok: false, cost: /Run as root/ })
  t.end()
})
