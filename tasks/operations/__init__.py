"""What people do around nights: dates, status, doctor, backfill, gc, forget, calibrate."""
