// A machine whose daemon was killed while it saved the paused machine: the process that outlives the daemon lets it
// run on, however much of its memory was still to be saved.

import t from 'tap'
import { isUnderWay, migrationStatus } from '../../src/hypervisor/shared/qemu-migration.js'
import { QmpClient } from '../../src/hypervisor/shared/qmp.js'
import { runPaused } from '../../src/hypervisor/shared/run-paused.js'
import { fileLimit } from '../patience.js'
import { bootGuest, readReport, soon, until } from './boot-guest.js'

t.setTimeout(fileLimit(60_000))

t.test('a save of a paused guest is called off before the guest runs', async (t) => {
  const guest = await bootGuest()
  t.teardown(() => guest.end())
  const daemon = await QmpClient.connect(guest.qmp, soon(5000))
  await daemon.execute('stop', {}, soon(5000))
  // So slow that it never ends by itself.
  await daemon.execute('migrate-set-parameters', { 'max-bandwidth': 100_000 }, soon(5000))
  await daemon.execute('migrate', { uri: 'exec:cat >/dev/null' }, soon(5000))
  daemon.close()

  await runPaused(guest.qmp, false, soon(30_000))
  const { count } = readReport(guest.serial)
  await until('the guest to run on', () => readReport(guest.serial).count > count + 3, 30_000)
  const next = await QmpClient.connect(guest.qmp, soon(5000))
  t.notOk(isUnderWay(await migrationStatus(next, soon(5000))), 'nothing is left that would stop it')
  next.close()
})
