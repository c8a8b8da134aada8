def test_x(checked):
    import time
    checked.add_backup()
    for _ in range(3):
        t=time.time(); h=checked.check(); print(time.time()-t)
    for f in h.findings: print(f)
    print(h.metrics)
